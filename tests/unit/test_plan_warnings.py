# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vip_service warns of: the judgement, given the facts of a node."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Service,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_facts import facts_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._node_checks.checks import node_warnings
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import (
    BaseChain,
    Link,
    NftRule,
    NodeFacts,
)

NODE = {"name": "node1", "addresses": ["192.0.2.1", "10.0.0.1"], "local_cidrs": ["10.0.0.0/24"]}
WEB = {"name": "web", "vip": ["10.96.0.1"], "port": 80, "backends": [{"address": "10.0.0.11"}]}
BRIDGE = (
    Link("br0", "bridge", "", ("10.0.0.0/24", "fd00::/64"), frozenset()),
    Link("tap0", "tun", "br0", (), frozenset()),
    Link("tap1", "tun", "br0", (), frozenset()),
)
FORWARD = BaseChain("inet", "t", "c", "forward", "drop", True)
GOOD = NodeFacts(
    forwarding={"ipv4": True, "ipv6": False},
    conntrack=(10, 100),
    route_localnet=True,
    strict=frozenset({"eth0"}),
    uplinks=frozenset({"eth0"}),
    outside=frozenset({"eth0"}),
    links=BRIDGE,
    bridge_netfilter={"ipv4": True, "ipv6": False},
    chains=[(FORWARD, [NftRule("accept", "ct status dnat")])],
)


def parsed(**options: Any) -> list[Service]:
    return parse_services([{**WEB, **options}], parse_node(NODE))


def _warnings(services: list[Service]) -> tuple[str, ...]:
    return facts_of(services, parse_node(NODE)).warnings


def judged(observed: NodeFacts, node: dict[str, Any] | None = None, **options: Any) -> list[str]:
    settings = parse_node({**NODE, **(node or {})})
    return node_warnings(facts_of(parsed(**options), settings), settings, observed)


def test_nothing_is_said_of_a_good_node_and_of_what_could_not_be_read() -> None:
    assert judged(GOOD) == []
    assert judged(NodeFacts(), {"localhost_node_ports": True}, node_port=30080) == []


@pytest.mark.parametrize(
    ("bad", "start"),
    [
        ({"forwarding": {"ipv4": False}}, "net.ipv4.ip_forward is 0"),
        ({"conntrack": (91, 100)}, "connection tracking is nearly full (91 of 100 entries)"),
        ({"uplinks": frozenset({"eth0", "eth1"}), "strict": frozenset({"eth1"})}, "net.ipv4.conf.eth1.rp_filter is 1"),
        ({"bridge_netfilter": {"ipv4": False}}, "net.bridge.bridge-nf-call-iptables is not 1: backend 10.0.0.11"),
        ({"unreachable": ["10.96.0.1"]}, "the node has no route to 10.96.0.1: "),
        ({"unreachable": ["a", "b", "c", "d", "e"]}, "the node has no route to a, b, c and 2 more: "),
        ({"chains": [(FORWARD, [])]}, "nftables: the chain c (hook forward) of table inet t drops"),
    ],
)
def test_what_is_in_the_way_is_one_line(bad: dict[str, Any], start: str) -> None:
    (warning,) = judged(GOOD._replace(**bad))
    assert warning.startswith(start)
    assert "\n" not in warning


def test_route_localnet_matters_for_node_ports_on_localhost_alone() -> None:
    without = GOOD._replace(route_localnet=False)
    assert judged(without, node_port=30080) == []
    assert judged(without, {"localhost_node_ports": True}) == []
    (warning,) = judged(without, {"localhost_node_ports": True}, node_port=30080)
    assert warning.startswith("net.ipv4.conf.all.route_localnet is 0")


@pytest.mark.parametrize(
    ("links", "node", "options"),
    [
        (BRIDGE[:2], {}, {}),
        ((BRIDGE[0]._replace(netfilter=frozenset({"ipv4"})), *BRIDGE[1:]), {}, {}),
        ((BRIDGE[0]._replace(kind="bond"), *BRIDGE[1:]), {}, {}),
        ((BRIDGE[0]._replace(networks=("10.0.1.0/24",)), *BRIDGE[1:]), {}, {}),
        (BRIDGE, {"masquerade_all": True}, {}),
        (BRIDGE, {"local_cidrs": ["10.9.0.0/16"]}, {}),
        (BRIDGE, {}, {"backends": [{"address": "10.0.0.11", "weight": 0}]}),
        (BRIDGE, {}, {"vip": [], "node_port": 30080}),
    ],
    ids=["one port", "by itself", "no bridge", "elsewhere", "all masqueraded", "not local", "unused", "external"],
)
def test_bridges_that_need_no_netfilter(links: Any, node: dict[str, Any], options: dict[str, Any]) -> None:
    off = GOOD._replace(bridge_netfilter={"ipv4": False})
    assert judged(off) != []
    assert judged(off._replace(links=links), node, **options) == []


def test_an_external_local_policy_keeps_sources_on_a_bridge_too() -> None:
    off = GOOD._replace(bridge_netfilter={"ipv4": False})
    assert judged(off, vip=[], node_port=30080, external_traffic_policy="local") != []


def test_backends_that_end_but_serve_are_reached_over_a_bridge_too() -> None:
    off = GOOD._replace(bridge_netfilter={"ipv4": False})
    ending = {"address": "10.0.0.11", "ready": False, "terminating": True}
    assert judged(off, backends=[{**ending, "serving": True}]) != []
    assert judged(off, backends=[{**ending, "serving": False}]) == []


def test_input_matters_where_a_backend_is_on_the_node_itself() -> None:
    observed = GOOD._replace(chains=[(FORWARD._replace(hook="input"), [])])
    assert judged(observed) == []
    assert judged(observed, backends=[{"address": "10.0.0.1"}]) != []


def test_where_the_node_takes_connections_for_its_own_input_lets_pass_what_is_translated_and_drops_them() -> None:
    firewalld = (FORWARD._replace(hook="input"), [NftRule("accept", "ct status dnat"), NftRule("reject", "")])
    observed = GOOD._replace(chains=[firewalld], at_input=True)
    (warning,) = judged(observed)
    assert warning.startswith("nftables: the chain c (hook input)")
    assert "nft insert rule" not in warning
    assert judged(observed._replace(at_input=False)) == []


@pytest.mark.parametrize("hook", ["prerouting", "forward", "output", "postrouting"])
def test_drops_at_every_hook_that_services_pass_are_told(hook: str) -> None:
    chain = FORWARD._replace(hook=hook)
    (warning,) = judged(GOOD._replace(chains=[(chain, [])]))
    assert warning.startswith(f"nftables: the chain c (hook {hook}) of table inet t drops")
    helped = judged(GOOD._replace(chains=[(chain, [NftRule("accept", "ct status dnat")])]))
    assert helped == ([warning] if hook == "prerouting" else []), "nothing is translated yet in prerouting"
    assert ("nft insert rule" in warning) == (hook != "prerouting")
    assert judged(GOOD._replace(chains=[(chain, [NftRule("accept", "")])])) == []


def test_built_in_chains_of_iptables_are_not_foreign() -> None:
    own = FORWARD._replace(family="ip", table="filter", name="FORWARD")
    assert judged(GOOD._replace(chains=[(own, [])])) == []
    assert judged(GOOD._replace(chains=[(own._replace(name="forward"), [])])) != []


def test_services_that_are_hardly_meant_so() -> None:
    assert _warnings(parsed()) == ()
    (unused,) = _warnings(parsed(backends=[{"address": "fd00::11"}]))
    assert unused == 'service "web": it has no address in the family of its backend fd00::11, which is not used'
    (ranges,) = _warnings(parsed(source_ranges=["192.0.2.0/24"]))
    assert ranges == 'service "web": source_ranges guard load_balancer_ips alone, and it has none'
