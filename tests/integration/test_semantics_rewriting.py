# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 11 to 15: which source address a backend sees."""

from __future__ import annotations

import re
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, answered_from_one_port, backends, balancer_ip, external_ip, vip

from lab.traffic import LongLivedConnection

pytestmark = pytest.mark.every_variant

NODE = ("node1", "bridge1")
MARKED_AT_THE_END = """
table ip probe {
    chain end {
        type filter hook postrouting priority 300;
        tcp dport 8080 counter
        meta mark & %(mask)s == %(value)s counter
    }
}
"""


def _own(family: str) -> set[str]:
    return {ADDRESSES[name][family] for name in NODE}


def _web(family: str, *names: str, **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family), **options}


@pytest.mark.semantics(11)
def test_vip_keeps_the_source_of_local_sources_and_masquerades_all_others(network: Network, family: str) -> None:
    network.applied([_web(family, "b12", "b21")])
    assert network.ask("b11", vip(1, family), 80, count=40).sources == {ADDRESSES["b11"][family]}
    assert network.ask("client", vip(1, family), 80, count=40).sources <= _own(family)
    assert network.ask("node1", vip(1, family), 80, count=40).sources <= _own(family)


@pytest.mark.semantics(11)
def test_vip_without_local_cidrs_masquerades_nothing_but_hairpin(network: Network, family: str) -> None:
    network.applied([_web(family, "b11")], node={"local_cidrs": []})
    assert network.ask("client", vip(1, family), 80, count=10).sources == {ADDRESSES["client"][family]}
    assert network.ask("b12", vip(1, family), 80, count=10).sources == {ADDRESSES["b12"][family]}
    assert network.ask("b11", vip(1, family), 80, count=10).sources <= _own(family)


@pytest.mark.semantics(11)
def test_local_cidrs_of_one_family_say_nothing_about_the_other(network: Network) -> None:
    services = [{"name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "port": 80}]
    services[0]["backends"] = backends("b11", family=IPV4) + backends("b11", family=IPV6)
    network.applied(services, node={"local_cidrs": ["10.0.0.0/16"]})
    assert network.ask("client", vip(1, IPV4), 80, count=10).sources <= _own(IPV4)
    assert network.ask("client", vip(1, IPV6), 80, count=10).sources == {ADDRESSES["client"][IPV6]}


@pytest.mark.semantics(11)
def test_masquerade_all_masquerades_vip_traffic_and_nothing_else(network: Network, family: str) -> None:
    external = external_ip(1, family)
    web = _web(family, "b12", external_ips=[external], external_traffic_policy="local")
    network.applied([web], node={"masquerade_all": True})
    for source in ("b11", "client", "node1"):
        assert network.ask(source, vip(1, family), 80, count=10).sources <= _own(family)
    assert network.ask("client", external, 80, count=10).sources == {ADDRESSES["client"][family]}
    assert network.ask("client", ADDRESSES["b12"][family], 8080, count=5).sources == {ADDRESSES["client"][family]}


@pytest.mark.semantics(12)
def test_hairpin_is_masqueraded_by_the_chosen_backend_alone(network: Network, family: str) -> None:
    network.applied([_web(family, "b11", "b12")])
    tally = network.ask("b11", vip(1, family), 80, count=200)
    assert tally.answered == 200, tally
    assert {source for backend, source in tally.answers if backend == "b11"} <= _own(family)
    assert {source for backend, source in tally.answers if backend == "b12"} == {ADDRESSES["b11"][family]}


@pytest.mark.semantics(13)
@pytest.mark.parametrize("source", ["client", "b11", "node1"])
def test_external_traffic_is_always_masqueraded_under_policy_cluster(
    network: Network, family: str, source: str
) -> None:
    external, balanced = external_ip(1, family), balancer_ip(1, family)
    network.applied(
        [_web(family, "b12", "b21", node_port=30080, external_ips=[external], load_balancer_ips=[balanced])]
    )
    for address, port in ((external, 80), (balanced, 80), (ADDRESSES["node1"][family], 30080)):
        tally = network.ask(source, address, port, count=30)
        assert tally.answered == 30, (address, tally)
        assert tally.sources <= _own(family)


@pytest.mark.iptables_only
@pytest.mark.semantics(14)
@pytest.mark.parametrize("policy", ["cluster", "local"])
def test_localhost_node_ports_reach_all_backends_masqueraded(network: Network, policy: str) -> None:
    network.hosts["node1"].sysctl("net/ipv4/conf/all/route_localnet", 1)
    web = _web(IPV4, "b11", "b21", node_port=30080, external_traffic_policy=policy)
    network.applied([web], node={"localhost_node_ports": True, "node_port_addresses": ["192.0.2.0/24"]})
    tally = network.ask("node1", "127.0.0.1", 30080, count=60)
    assert tally.answered == 60, tally
    assert set(tally.backends) == {"b11", "b21"}
    assert tally.sources <= _own(IPV4)


@pytest.mark.semantics(15)
def test_snat_address_replaces_the_masquerade_address_in_its_family(network: Network, family: str) -> None:
    network.applied([_web(family, "b11")], node={"snat_address": ADDRESSES["node1"][family]})
    assert network.ask("client", vip(1, family), 80, count=10).sources == {ADDRESSES["node1"][family]}


@pytest.mark.semantics(15)
@pytest.mark.parametrize("mark", ["0x4000/0x4000", "0x200/0x200", "0x1/0xf", "0x40/0xffffffff"])
def test_the_mark_is_cleared_before_the_source_is_rewritten(network: Network, mark: str) -> None:
    """A packet that leaves carries no mark of ours, so that a tunnel's outer packet does not inherit it."""
    node = network.hosts["node1"]
    value, mask = mark.split("/")
    network.applied([_web(IPV4, "b11")], node={"masquerade_mark": mark})
    node.run("nft", "-f", "-", input=MARKED_AT_THE_END % {"value": value, "mask": mask})
    try:
        assert network.ask("client", vip(1, IPV4), 80, count=10).sources <= _own(IPV4)
        counted = node.run("nft", "list", "table", "ip", "probe").stdout
    finally:
        node.run("nft", "delete", "table", "ip", "probe")
    packets = [int(count) for count in re.findall(r"counter packets (\d+)", counted)]
    assert packets[0] >= 10, counted
    assert packets[1] == 0, counted


@pytest.mark.semantics(15)
def test_sources_are_rewritten_to_random_ports(network: Network, family: str) -> None:
    network.applied([_web(family, "b12")])
    kept = 0
    for dummy in range(20):
        with LongLivedConnection(network.hosts["client"], vip(1, family), 80) as connection:
            kept += connection.first.port == connection.port
    assert kept <= 1


@pytest.mark.iptables_only
@pytest.mark.semantics(15)
def test_one_client_port_through_two_services_to_one_backend_is_two_connections(network: Network, family: str) -> None:
    assert answered_from_one_port(network, "b12", family) == [True, True]
