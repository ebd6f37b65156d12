# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 1 to 4: who reaches a service, by which address."""

from __future__ import annotations

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, external_ip, vip

from lab.traffic import Servers

pytestmark = pytest.mark.every_variant

SOURCES = ("node1", "b11", "b21", "client")
OTHER = {IPV4: IPV6, IPV6: IPV4}


@pytest.mark.semantics(1)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_vip_answers_to_the_node_local_sources_and_what_is_routed_through(
    network: Network, family: str, protocol: str, source: str
) -> None:
    web = {"name": "web", "vip": vip(1, family), "port": 80, "protocol": protocol}
    network.applied([{**web, "backends": backends("b11", "b12", family=family)}])
    tally = network.ask(source, vip(1, family), 80, protocol, count=50)
    assert tally.answered == 50, tally
    assert set(tally.backends) == {"b11", "b12"}


@pytest.mark.semantics(1)
def test_a_dual_stack_service_proxies_each_family_to_its_own_backends(network: Network) -> None:
    mixed = backends("b11", family=IPV4) + backends("b12", family=IPV6)
    network.applied([{"name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "port": 80, "backends": mixed}])
    assert set(network.ask("client", vip(1, IPV4), 80, count=20).backends) == {"b11"}
    assert set(network.ask("client", vip(1, IPV6), 80, count=20).backends) == {"b12"}


@pytest.mark.semantics(1)
def test_a_family_without_backends_rejects_and_the_other_serves(network: Network, family: str) -> None:
    other = OTHER[family]
    both = [vip(1, family), vip(1, other)]
    network.applied([{"name": "web", "vip": both, "port": 80, "backends": backends("b11", family=family)}])
    assert network.ask("client", vip(1, family), 80, count=5).answered == 5
    assert network.ask("client", vip(1, other), 80, count=5).failures == {"refused": 5}


@pytest.mark.semantics(2)
def test_services_share_a_vip_on_other_ports_and_a_port_on_other_protocols(network: Network, family: str) -> None:
    shared = vip(7, family)
    network.applied(
        [
            {"name": "web", "vip": shared, "port": 80, "backends": backends("b11", family=family)},
            {"name": "admin", "vip": shared, "port": 81, "backends": backends("b12", family=family)},
            {"name": "dns", "vip": shared, "port": 80, "protocol": "udp", "backends": backends("b21", family=family)},
        ]
    )
    assert set(network.ask("client", shared, 80, count=10).backends) == {"b11"}
    assert set(network.ask("client", shared, 81, count=10).backends) == {"b12"}
    assert set(network.ask("client", shared, 80, "udp", count=10).backends) == {"b21"}


@pytest.mark.semantics(2)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"vip": "10.96.0.1"}, {"vip": "10.96.0.1"}),
        ({"vip": "10.96.0.1"}, {"external_ips": ["10.96.0.1"]}),
        ({"external_ips": ["10.96.0.1"]}, {"load_balancer_ips": ["10.96.0.1"]}),
        ({"vip": "fd96::1"}, {"vip": "fd96:0::0:1"}),
        ({"node_port": 80}, {"node_port": 80}),
        ({"node_port": 80}, {"external_ips": [ADDRESSES["node1"][IPV4]]}),
    ],
)
def test_what_is_taken_twice_is_refused_naming_both_services(
    network: Network, first: dict[str, object], second: dict[str, object]
) -> None:
    network.applied([{"name": "kept", "vip": vip(9, IPV4), "port": 80, "backends": backends("b11")}])
    before = network.rules()
    services = [{"name": "one", "port": 80, **first}, {"name": "two", "port": 80, **second}]
    refused = network.apply(services)
    assert refused["failed"]
    assert '"one"' in refused["msg"]
    assert '"two"' in refused["msg"]
    assert len(refused["msg"].splitlines()) == 1
    assert network.rules() == before


@pytest.mark.semantics(3)
@pytest.mark.parametrize("source", SOURCES)
def test_a_node_port_answers_on_every_address_of_the_node(network: Network, family: str, source: str) -> None:
    web = {"name": "web", "port": 80, "node_port": 30080, "vip": vip(1, family)}
    network.applied([{**web, "backends": backends("b11", "b21", family=family)}])
    for address in (ADDRESSES["node1"][family], ADDRESSES["bridge1"][family]):
        tally = network.ask(source, address, 30080, count=20)
        assert tally.answered == 20, (address, tally)
        assert set(tally.backends) == {"b11", "b21"}


@pytest.mark.semantics(3)
def test_a_node_port_answers_only_inside_node_port_addresses(network: Network, family: str) -> None:
    inside = {IPV4: "192.0.2.0/24", IPV6: "2001:db8::/64"}[family]
    web = {"name": "web", "port": 80, "node_port": 30080, "backends": backends("b11", family=family)}
    network.applied([web], node={"node_port_addresses": [inside]})
    assert network.ask("client", ADDRESSES["node1"][family], 30080, count=5).answered == 5
    assert network.ask("b12", ADDRESSES["bridge1"][family], 30080, count=5).failures == {"refused": 5}
    other = {IPV4: "2001:db8::/64", IPV6: "192.0.2.0/24"}[family]
    network.applied([web], node={"node_port_addresses": [other]})
    assert network.ask("client", ADDRESSES["node1"][family], 30080, count=5).failures == {"refused": 5}


@pytest.mark.semantics(3)
def test_a_node_port_does_not_answer_on_a_vip(network: Network, family: str) -> None:
    web = {"name": "web", "port": 80, "node_port": 30080, "vip": vip(1, family)}
    network.applied([{**web, "backends": backends("b11", family=family)}])
    assert network.ask("client", vip(1, family), 30080, timeout=1.5).answered == 0


@pytest.mark.iptables_only
@pytest.mark.semantics(3)
def test_a_node_port_is_not_on_localhost_unless_asked_for(network: Network, family: str) -> None:
    localhost = {IPV4: "127.0.0.1", IPV6: "::1"}[family]
    network.hosts["node1"].sysctl("net/ipv4/conf/all/route_localnet", 1)
    web = {"name": "web", "port": 80, "node_port": 30080, "backends": backends("b11", family=family)}
    network.applied([web])
    assert network.ask("node1", localhost, 30080, count=5).failures == {"refused": 5}
    network.applied([web], node={"localhost_node_ports": True})
    tally = network.ask("node1", localhost, 30080, count=5)
    if family == IPV4:
        assert tally.answered == 5, tally
    else:
        assert tally.failures == {"refused": 5}


@pytest.mark.semantics(4)
def test_other_ports_of_external_and_node_addresses_go_on_as_before(network: Network, family: str) -> None:
    external, own = external_ip(1, family), ADDRESSES["node1"][family]
    length = {IPV4: "32", IPV6: "128"}[family]
    node = network.hosts["node1"]
    node.add_address("lo", f"{external}/{length}")
    try:
        with Servers() as servers:
            for address in (external, own):
                servers.serve(node, "daemon", address, 22)
            web = {"name": "web", "port": 80, "node_port": 30080, "external_ips": [external]}
            network.applied([{**web, "backends": backends("b11", family=family)}])
            for source in ("client", "node1"):
                assert set(network.ask(source, external, 80, count=5).backends) == {"b11"}
                assert set(network.ask(source, external, 22, count=5).backends) == {"daemon"}
                assert set(network.ask(source, own, 22, count=5).backends) == {"daemon"}
    finally:
        node.ip("address", "delete", f"{external}/{length}", "dev", "lo")
