# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a packet is led through chains, whoever wrote them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import SAME_ADDRESS
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.rule_match import (
    UnknownRule,
    parse_rule,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.walk import trace
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import trace_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired

PACKET = Packet("192.0.2.100", "10.96.0.1", "tcp", 80, ("192.0.2.1", "2001:db8::1"))
TO = "-j DNAT --to-destination 10.0.0.%d:8080"


def nat(*prerouting: str, **chains: list[str]) -> Desired:
    return Desired(
        {("nat", "PREROUTING"): list(prerouting), **{("nat", name): rules for name, rules in chains.items()}}
    )


def reached(state: Desired) -> dict[str, Fraction]:
    return {packet.destination: chance for packet, chance in trace(state, PACKET).outcomes.items()}


@pytest.mark.parametrize(
    ("match", "chance"),
    [
        ("", 1),
        ("-s 192.0.2.0/24 -d 10.96.0.1/32 -p tcp -m tcp --dport 80", 1),
        ("-s 2001:db8::/64", 0),
        ("! -s 192.0.2.0/24", 0),
        ("-p udp", 0),
        ("-m tcp --dport 81", 0),
        ('-m comment --comment "-p udp ! -j DROP"', 1),
        ("-m mark --mark 0x4000/0x4000", 0),
        ("-m mark ! --mark 0x4000/0x4000", 1),
        ("-m conntrack --ctstate RELATED,NEW", 1),
        ("-m conntrack --ctstate DNAT", 0),
        ("-m addrtype --src-type LOCAL", 0),
        ("-m set --match-set L4-AFF-X src", 0),
        ("-m statistic --mode random --probability 0.50000000000", Fraction(1, 2)),
        ("-m statistic --mode random ! --probability 0.25000000000", Fraction(3, 4)),
        ("-m statistic --mode random --probability 0.33333333349", Fraction(715827883, 1 << 31)),
    ],
)
def test_matches(match: str, chance: Fraction) -> None:
    assert parse_rule(match + " -j ACCEPT").chance(PACKET) == chance


def test_local_addresses_are_the_nodes_and_loopback() -> None:
    local = parse_rule("-m addrtype --dst-type LOCAL -j ACCEPT")
    for address, chance in (("192.0.2.1", 1), ("127.0.0.9", 1), ("::1", 1), ("192.0.2.2", 0)):
        assert local.chance(PACKET._replace(destination=address)) == chance


@pytest.mark.parametrize(("option", "field"), [("-i", "source"), ("-o", "destination")])
def test_of_interfaces_the_loopback_alone_is_known(option: str, field: str) -> None:
    loopback = parse_rule(f"{option} lo -j ACCEPT")
    for address, chance in (("192.0.2.1", 1), ("127.0.0.9", 1), ("198.51.100.1", 0)):
        packet: Any = {field: address}
        assert loopback.chance(PACKET._replace(**packet)) == chance
    with pytest.raises(UnknownRule, match=f"by which interface a packet .* is not known .{option} eth0"):
        parse_rule(f"{option} eth0 -j ACCEPT").chance(PACKET)


@pytest.mark.parametrize(
    ("family", "source", "other"), [("ipv4", "10.0.0.11", "10.0.0.12"), ("ipv6", "fd00::11", "fd00::12")]
)
def test_the_bytecode_takes_what_comes_to_its_sender(family: str, source: str, other: str) -> None:
    itself = parse_rule(f"{SAME_ADDRESS[family]} -j ACCEPT")
    assert itself.chance(PACKET._replace(source=source, destination=source)) == 1
    assert itself.chance(PACKET._replace(source=source, destination=other)) == 0


def test_the_mark_is_set_and_cleared_by_its_bits() -> None:
    state = nat("-j MARK --set-xmark 0x6/0xf", "-j MARK --set-xmark 0x2/0x0", "-m mark --mark 0x4/0xf " + TO % 1)
    assert reached(state) == {"10.0.0.1": 1}


def test_return_and_the_end_of_a_chain_lead_back_and_goto_does_not() -> None:
    assert reached(nat("-j A", TO % 1, A=["-j RETURN", TO % 2])) == {"10.0.0.1": 1}
    assert reached(nat("-j A", TO % 1, A=["-p udp " + TO % 2])) == {"10.0.0.1": 1}
    assert reached(nat("-g A", TO % 1, A=["-j RETURN"])) == {"10.96.0.1": 1}
    assert reached(nat("-j A", TO % 1, A=["-g B", TO % 2], B=[])) == {"10.0.0.1": 1}


def test_every_way_is_followed_and_equal_ends_are_one() -> None:
    half = "-m statistic --mode random --probability 0.50000000000 "
    state = nat(half + "-j A", half + TO % 2, TO % 1, A=[half + TO % 2, TO % 1])
    assert reached(state) == {"10.0.0.1": Fraction(1, 2), "10.0.0.2": Fraction(1, 2)}
    assert [float(step.chance) for step in trace(state, PACKET).steps] == [0.5, 0.25, 0.25, 0.25, 0.25]


HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


@pytest.mark.parametrize(
    ("source", "destination", "hooks"),
    [
        ("192.0.2.100", "10.0.0.9", ["nat PREROUTING", "filter FORWARD", "nat POSTROUTING"]),
        ("192.0.2.100", "192.0.2.1", ["nat PREROUTING", "filter INPUT"]),
        ("192.0.2.1", "10.0.0.9", ["nat OUTPUT", "filter OUTPUT", "nat POSTROUTING"]),
        ("192.0.2.1", "192.0.2.1", ["nat OUTPUT", "filter OUTPUT", "nat POSTROUTING", "filter INPUT"]),
    ],
)
def test_hooks_are_passed_in_the_kernels_order(source: str, destination: str, hooks: list[str]) -> None:
    nothing = "-m comment --comment x"
    state = Desired({(table, hook): [nothing] for table in ("nat", "filter") for hook in HOOKS})
    packet = PACKET._replace(source=source, destination=destination)
    assert [f"{step.table} {step.chain}" for step in trace(state, packet).steps] == hooks


def test_what_is_dropped_goes_no_further() -> None:
    state = Desired({("filter", "FORWARD"): ["-j DROP"], ("nat", "POSTROUTING"): ["-j MASQUERADE"]})
    found = trace(state, PACKET)
    assert [packet.verdict for packet in found.outcomes] == ["drop"]
    assert [step.chain for step in found.steps] == ["FORWARD"]


@pytest.mark.parametrize(
    ("rule", "unknown"),
    [
        ("-m owner --uid-owner 0 -j ACCEPT", "the match --uid-owner"),
        ("-m mac --mac-source 02:00:00:00:00:01 -j ACCEPT", "the match --mac-source"),
        ("-m addrtype --dst-type BROADCAST -j ACCEPT", "the address type BROADCAST"),
        ("-j TPROXY --on-port 1", "the target TPROXY"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_it(rule: str, unknown: str) -> None:
    with pytest.raises(UnknownRule, match=unknown):
        trace(nat(rule), PACKET)


NODE = {"name": "node1", "addresses": ["192.0.2.1", "10.0.0.1"], "local_cidrs": ["10.0.0.0/16"]}
WEB: dict[str, Any] = {
    "name": "web",
    "vip": "10.96.0.1",
    "port": 80,
    "node_port": 30080,
    "session_affinity": "client_ip",
    "backends": [{"address": "10.0.0.11", "port": 8080, "weight": 2}, {"address": "10.0.0.12", "port": 8080}],
}


def ask(source: str, to: str, port: int = 80, **node: Any) -> dict[str, Any]:
    return trace_services([WEB], {"from": source, "to": to, "port": port, "node": {**NODE, **node}})


def test_the_answer_tells_verdict_backends_source_and_rules() -> None:
    met = ask("10.0.0.11", "10.96.0.1")
    assert met["verdict"] == "accept"
    assert met["affinity"] is True
    assert met["snat"] == "mixed"
    assert met["backends"] == [
        {"address": "10.0.0.11", "port": 8080, "chance": 0.666667, "snat": "masquerade"},
        {"address": "10.0.0.12", "port": 8080, "chance": 0.333333, "snat": False},
    ]
    assert met["rules"][0]["table"] == "nat"
    assert met["rules"][0]["chain"] == "PREROUTING"
    assert "web: vip" in met["rules"][1]["rule"]


@pytest.mark.parametrize(
    ("source", "to", "port", "verdict"),
    [
        ("node", "10.96.0.1", 80, "accept"),
        ("node", "10.0.0.1", 30080, "accept"),
        ("node", "127.0.0.1", 30080, "accept"),
        ("localhost", "127.0.0.1", 30080, "accept"),
        ("192.0.2.100", "192.0.2.1", 22, "not_ours"),
        ("192.0.2.100", "192.0.2.2", 30080, "not_ours"),
    ],
)
def test_the_node_speaks_for_itself(source: str, to: str, port: int, verdict: str) -> None:
    assert ask(source, to, port, localhost_node_ports=True)["verdict"] == verdict


def test_a_load_balancer_address_without_source_ranges_leads_to_backends() -> None:
    met = trace_services(
        [{**WEB, "load_balancer_ips": ["203.0.113.1"]}],
        {"from": "192.0.2.100", "to": "203.0.113.1", "port": 80, "node": NODE},
    )
    assert met["verdict"] == "accept"
    assert [one["address"] for one in met["backends"]] == ["10.0.0.11", "10.0.0.12"]


def test_the_node_speaks_to_others_from_its_first_address_and_to_localhost_from_localhost() -> None:
    assert ask("node", "10.96.0.1", local_cidrs=["192.0.2.0/24"])["snat"] is False
    assert ask("node", "10.96.0.1", local_cidrs=["10.0.0.0/16"])["snat"] == "masquerade"
    for source in ("node", "localhost"):
        assert ask(source, "127.0.0.1", 30080, localhost_node_ports=True, addresses=[])["verdict"] == "accept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from": "router"}, 'trace: from is "router": must be an IPv4 or IPv6 address, node or localhost'),
        ({"to": "web"}, 'trace: to is "web": must be an IPv4 or IPv6 address'),
        ({"port": 0}, "trace: port is 0: must be an integer from 1 to 65535"),
        ({"protocol": "icmp"}, 'trace: protocol is "icmp": must be one of tcp, udp, sctp'),
        ({"from": "::1"}, "trace: from is ::1 and to is 10.96.0.1: must be of one family"),
        ({"from": "node", "to": "fd96::1"}, "node: addresses has no ipv6 address: from node needs one"),
        (
            {"via": "eth0"},
            'trace: "via" is not a known key (its value is "eth0"): allowed are from, to, port, protocol, node, dataplane',
        ),
    ],
)
def test_a_wrong_question_is_one_line(options: dict[str, Any], message: str) -> None:
    question = {"from": "192.0.2.100", "to": "10.96.0.1", "port": 80, "node": NODE, **options}
    with pytest.raises(InvalidServices) as caught:
        trace_services([WEB], question)
    assert str(caught.value) == message


def test_a_rule_that_takes_a_packet_twice_has_no_chance_above_one() -> None:
    met = ask("192.0.2.100", "10.96.0.1", local_cidrs=["10.1.0.0/16"])
    masqueraded = ask("10.0.0.11", "10.96.0.1", local_cidrs=["10.1.0.0/16"])
    for one in (met, masqueraded):
        assert [rule["chance"] for rule in one["rules"] if rule["chain"] == "L4-MARK-MASQ"] == [1.0]


def ask_ipvs(source: str, to: str, port: int = 80, **service: Any) -> dict[str, Any]:
    options = {"from": source, "to": to, "port": port, "node": NODE, "dataplane": "ipvs"}
    return trace_services([{**WEB, **service}], options)


def test_ipvs_is_passed_between_input_and_output_by_what_comes_in() -> None:
    met = ask_ipvs("192.0.2.100", "10.96.0.1")
    assert (met["verdict"], met["snat"], met["affinity"]) == ("accept", "masquerade", True)
    assert [(one["address"], one["port"], one["chance"]) for one in met["backends"]] == [
        ("10.0.0.11", 8080, 0.666667),
        ("10.0.0.12", 8080, 0.333333),
    ]
    hooks = [one["chain"] or one["rule"] for one in met["rules"] if not one["chain"].startswith("L4-")]
    service = "-A -t 10.96.0.1:80 -s wrr -p 10800"
    destinations = [f"-a -t 10.96.0.1:80 -r 10.0.0.{at}:8080 -m -w {weight}" for at, weight in ((11, 2), (12, 1))]
    assert hooks == ["PREROUTING", "INPUT", service, *destinations, "OUTPUT", "POSTROUTING"]


def test_what_ipvs_leads_to_the_node_itself_does_not_leave() -> None:
    met = ask_ipvs("192.0.2.100", "10.96.0.1", backends=[{"address": "10.0.0.1", "port": 8080}])
    assert (met["verdict"], met["snat"]) == ("accept", False)
    assert {one["chain"] for one in met["rules"]}.isdisjoint({"OUTPUT", "POSTROUTING"})


def test_ipvs_is_passed_in_front_of_output_by_what_the_node_sends_from_the_services_address() -> None:
    met = ask_ipvs("node", "10.96.0.1", session_affinity="none")
    assert (met["verdict"], met["snat"], met["affinity"]) == ("accept", "masquerade", False)
    hooks = [one["chain"] or one["rule"][:2] for one in met["rules"] if not one["chain"].startswith("L4-")]
    assert hooks == ["OUTPUT", "-A", "-a", "-a", "OUTPUT", "POSTROUTING"]


@pytest.mark.parametrize(
    ("source", "to", "port", "verdict"),
    [
        ("192.0.2.100", "10.96.0.1", 81, "reject"),
        ("node", "10.96.0.1", 81, "reject"),
        ("192.0.2.100", "192.0.2.1", 30080, "accept"),
        ("192.0.2.100", "192.0.2.1", 22, "not_ours"),
        ("node", "192.0.2.1", 22, "not_ours"),
        ("192.0.2.100", "10.96.0.2", 80, "not_ours"),
        ("192.0.2.100", "203.0.113.1", 80, "drop"),
        ("node", "203.0.113.1", 80, "drop"),
        ("198.51.100.7", "203.0.113.1", 80, "accept"),
    ],
)
def test_verdicts_with_ipvs(source: str, to: str, port: int, verdict: str) -> None:
    guarded = {"load_balancer_ips": ["203.0.113.1"], "source_ranges": ["198.51.100.0/24"]}
    assert ask_ipvs(source, to, port, **guarded)["verdict"] == verdict


@pytest.mark.parametrize(
    ("scheduler", "chances"),
    [
        *[(name, [0.5, 0.5]) for name in ("rr", "lc", "dh", "lblc", "lblcr")],
        *[(name, [0.666667, 0.333333]) for name in ("wrr", "wlc", "sed", "nq", "sh", "mh", "twos")],
        *[(name, [1.0]) for name in ("fo", "ovf")],
    ],
)
def test_chances_are_the_shares_of_the_scheduler(scheduler: str, chances: list[float]) -> None:
    met = ask_ipvs("192.0.2.100", "10.96.0.1", scheduler=scheduler)
    assert [one["chance"] for one in met["backends"]] == chances


@pytest.mark.parametrize("method", ["direct", "tunnel"])
def test_what_is_not_rewritten_keeps_its_source_and_is_not_tracked(method: str) -> None:
    backends = [{"address": "10.0.0.11"}, {"address": "10.0.0.12", "weight": 0}]
    met = ask_ipvs("192.0.2.100", "10.96.0.1", forward_method=method, backends=backends, node_port=None)
    assert (met["verdict"], met["snat"]) == ("accept", False)
    assert [one["address"] for one in met["backends"]] == ["10.0.0.11"]
    assert not [one for one in met["rules"] if one["table"] == "nat"]
    assert [one["rule"] for one in met["rules"] if "--notrack" in one["rule"]]
    assert [one["rule"] for one in met["rules"] if "L4-ONE-WAY" in one["rule"] and "--ipvs" in one["rule"]]


def test_a_dataplane_that_is_not_there_is_refused_by_trace() -> None:
    with pytest.raises(InvalidServices, match="dataplane"):
        trace_services([WEB], {"from": "node", "to": "10.96.0.1", "port": 80, "node": NODE, "dataplane": "userspace"})
