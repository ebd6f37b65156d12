# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Node setting `flow_offload`: connections of services take a flow table, those of others do not, and neither is broken by what changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, vip

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Table
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_parts import TABLES
from lab.traffic import LongLivedConnection, Servers
from module_runner import run_module_ok

STEADY = 9000
NOT_OFFLOADED: dict[str, Any] = {"flow_offload": []}
THEIRS = f"""\
table inet theirs {{
    counter forwarded {{ }}
    chain prerouting {{
        type nat hook prerouting priority dstnat - 1
        tcp dport 8888 dnat ip to {ADDRESSES["b12"][IPV4]}:{STEADY}
    }}
    chain forward {{
        type filter hook forward priority filter + 10
        tcp dport {STEADY} counter name forwarded
        tcp sport {STEADY} counter name forwarded
    }}
}}
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Of which b11 and b12 keep connections open, and somebody else counts what is forwarded."""
    with Network("l4flow", dataplane="nftables", node={"flow_offload": ["eth0", "br0"]}) as made, Servers() as servers:
        for name in ("b11", "b12"):
            for address in ADDRESSES[name].values():
                for protocol in ("tcp", "udp"):
                    servers.serve(made.hosts[name], name, address, STEADY, protocol, keep_open=True)
        made.hosts["node1"].run("nft", "-f", "-", input=THEIRS)
        yield made


def _services(*names: str, **options: Any) -> list[dict[str, Any]]:
    both = [one for family in (IPV4, IPV6) for one in backends(*names, family=family, port=STEADY)]
    common = {"vip": [vip(1, IPV4), vip(1, IPV6)], "port": 80, "backends": both}
    return [{**common, "name": "web", **options}, {**common, "name": "dns", "protocol": "udp"}]


def _forwarded(network: Network, connection: LongLivedConnection) -> int:
    """How many packets chains have seen of twenty questions and answers."""
    node = network.hosts["node1"]
    node.run("nft", "reset", "counter", "inet", "theirs", "forwarded")
    backend = connection.first.backend
    assert {connection.ask().backend for dummy in range(20)} == {backend}
    counted = node.run("nft", "list", "counter", "inet", "theirs", "forwarded").stdout
    return int(counted.split("packets ")[1].split()[0])


def _tracked(network: Network, connection: LongLivedConnection, protocol: str = "tcp") -> str:
    """What connection tracking knows of a connection of the client."""
    words = ("--dump", "--proto", protocol, "--orig-port-src", str(connection.port))
    families = ("ipv4", "ipv6")
    return "".join(network.hosts["node1"].run("conntrack", *words, "--family", one).stdout for one in families)


@pytest.mark.parametrize(("family", "affinity"), [(IPV4, "none"), (IPV6, "client_ip")])
def test_connections_take_the_flow_table_until_it_goes(network: Network, family: str, affinity: str) -> None:
    node, client = network.hosts["node1"], network.hosts["client"]
    node.sysctl("net/bridge/bridge-nf-call-iptables", 0)
    node.sysctl("net/bridge/bridge-nf-call-ip6tables", 0)
    services = _services("b11", session_affinity=affinity)
    network.applied(services)
    assert not network.applied(services)["changed"]
    backend = {"address": ADDRESSES["b11"][family], "port": STEADY}
    with LongLivedConnection(client, vip(1, family), 80) as connection:
        connection.ask()
        assert "[OFFLOAD]" in _tracked(network, connection)
        assert _forwarded(network, connection) == 0
        assert run_module_ok(node, "backend_connections_info", {"backends": [backend]})["total"] == 1
        network.applied(_services("b12", session_affinity=affinity))
        assert connection.ask().backend == "b11"
        assert network.ask("client", vip(1, family), 80, count=3).backends == {"b12": 3}
        network.applied(services, node=NOT_OFFLOADED)
        assert "flowtable" not in node.run("nft", "list", "ruleset").stdout
        assert _forwarded(network, connection) >= 40


def test_bridged_packets_that_pass_chains_are_answered_too(network: Network) -> None:
    """With br_netfilter translations begin in the bridge, before the flow table is asked."""
    node = network.hosts["node1"]
    node.sysctl("net/bridge/bridge-nf-call-iptables", 1)
    node.sysctl("net/bridge/bridge-nf-call-ip6tables", 1)
    network.applied(_services("b11", "b12"))
    for name, family in product(("client", "b11", "node1"), (IPV4, IPV6)):
        with LongLivedConnection(network.hosts[name], vip(1, family), 80) as connection:
            assert _forwarded(network, connection) >= 20 * (name == "client")


def test_neither_udp_nor_what_others_translate_is_offloaded(network: Network) -> None:
    """UDP has to follow where backends go; no backend of ours answers on 8888."""
    client = network.hosts["client"]
    network.applied(_services("b11"))
    with LongLivedConnection(client, ADDRESSES["node1"][IPV4], 8888) as theirs:
        theirs.ask()
        assert "[OFFLOAD]" not in _tracked(network, theirs)
        assert _forwarded(network, theirs) >= 40
    with LongLivedConnection(client, vip(1, IPV4), 80, "udp") as flow:
        flow.ask()
        assert "[OFFLOAD]" not in _tracked(network, flow, "udp")
        network.applied(_services("b12"))
        assert flow.ask().backend == "b12"


def test_a_device_that_is_not_there_is_named_and_nothing_is_changed(network: Network) -> None:
    network.applied(_services("b11"))
    before = network.rules()
    refused = network.apply(_services("b11", "b12"), node={"flow_offload": ["eth0", "nowhere"]})
    assert refused["msg"] == (
        'nftables: adding flow table "offloaded" of table ip l4-service-proxy: one of eth0, nowhere is not there, or this '
        "kernel has no flow tables (nf_flow_table)"
    )
    assert network.rules() == before


def test_at_boot_flow_tables_come_after_the_rest(network: Network) -> None:
    def read() -> Table:
        with Nftables() as nft:
            return nft.tables([TABLES[IPV4]])[0][TABLES[IPV4]]

    node = network.hosts["node1"]
    network.applied(_services("b11"))
    held = node.call(read)
    first, flowtables = boot_nftables.encode(held)
    node.call(boot_nftables.restore, IPV4, first)
    early = node.call(read)
    assert (early.flowtables, early.sets) == ({}, held.sets)
    for dummy in range(2):
        node.call(boot_nftables.restore_offload, IPV4, flowtables)
        assert node.call(read) == held
    assert not network.applied(_services("b11"))["changed"]
