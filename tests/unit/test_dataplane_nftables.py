# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nftables dataplane without a kernel: what it compiles to, in every combination and for any services at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any
from unittest import mock

import pytest
from agreement import agree, met
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from matrix import FAMILIES, SETTINGS, Kind, Question, kinds, node, questions
from semantics import BALANCER, EXTERNAL, NODE_PORT, VIP, expected
from strategies import CLIENTS, NODE, NODE_ADDRESSES, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Summary
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables import narrow
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.chains import ChainMaker
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.dataplane import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.host import (
    TABLES,
    maps_of,
    own_tables,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.maps import (
    AFFINITY_TIMEOUTS,
    NODE_PORTS,
    OF_SERVICES,
    SERVICES,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.numbers import (
    first_numbers,
    number_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.readback import claims_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.slots import (
    TABLES as MOST_TABLES,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.slots import (
    share_slots,
    slot_shares,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.tables import make_table
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.trace import trace
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model import addresses as ip
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Chain,
    Element,
    Hook,
    Rule,
    SetHeader,
    Table,
    Verdict,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import NftError, TableId
from ansible_collections.layer4.service_proxy.tests.unit.golden_nftables import ALL, GOLDEN, golden_text
from ansible_collections.layer4.service_proxy.tests.unit.nftables_node import Kernel, tables
from ansible_collections.layer4.service_proxy.tests.unit.sampling import EXAMPLES, some

Raw = dict[str, Any]
thorough = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
EXACT = Fraction(1, 500)
"""0.2 % of all connections."""
NFTABLES = Nftables()
UNLIKE = ("no local cidrs", "node port addresses")
"""Settings that between them ask for every chain of session affinity."""
LOCALHOST = ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("settings_of_node", "affinity"),
    [*((name, "none") for name in SETTINGS), *((name, "client_ip") for name in UNLIKE)],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_meets_what_the_semantics_say(family: str, settings_of_node: str, affinity: str) -> None:
    raw_node = node(settings_of_node)
    addresses = parse_node(raw_node).addresses
    for kind in some(kinds(family, settings_of_node)):
        service = {**kind.service(1), "session_affinity": affinity}
        table = tables([service], raw_node)[family]
        for question in questions(kind):
            wanted = question.expected(service, raw_node, family)
            found = trace(table, _packet(kind, question, service, addresses))
            assert agree(found, wanted, EXACT), (kind, question, wanted, met(found), found.steps)
            assert found.affinity == (affinity == "client_ip" and wanted.verdict == "accept")


def _packet(kind: Kind, question: Question, service: Raw, addresses: tuple[str, ...]) -> Packet:
    destination, port = question.destination(service, kind.family)
    return Packet(question.origin(kind.family), destination, service["protocol"], port, addresses)


@thorough
@given(st.lists(st.integers(1, 65535), min_size=1, max_size=40))
def test_weights_hold_within_a_five_hundredth_of_all_connections(weights: list[int]) -> None:
    slots = share_slots(tuple(weights))
    size = int(slots.chain.rpartition("-")[2])
    owners = dict(slots.filled)
    assert max(owners) < size * (MOST_TABLES if slots.chain.startswith("weighted") else 1)
    shares = slot_shares(slots.chain, owners)
    assert sum(shares.values()) == pytest.approx(1)
    for index, weight in enumerate(weights):
        assert shares[index] == pytest.approx(weight / sum(weights), abs=float(EXACT))


@pytest.mark.parametrize(
    "weights", [(1, 65535), (65535, 1), (65534, 65535), (1, 1, 1, 65535), (1,) * 60 + (65535,), (7, 65535, 65535)]
)
def test_no_backend_goes_without(weights: tuple[int, ...]) -> None:
    slots = share_slots(weights)
    shares = slot_shares(slots.chain, dict(slots.filled))
    assert set(shares) == set(range(len(weights)))
    for index, weight in enumerate(weights):
        assert shares[index] == pytest.approx(weight / sum(weights), abs=float(EXACT))


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 5), (3, 1), (2, 4, 6), (1, 9)])
def test_few_weights_are_exact_with_a_slot_for_each(weights: tuple[int, ...]) -> None:
    slots = share_slots(weights)
    assert "weighted" not in slots.chain
    shares = slot_shares(slots.chain, dict(slots.filled))
    assert [shares[i] for i in range(len(weights))] == pytest.approx([weight / sum(weights) for weight in weights])


@thorough
@given(services(), NODE, st.randoms(use_true_random=False))
def test_the_order_of_services_and_backends_does_not_matter(raw: list[Raw], raw_node: Raw, random: Any) -> None:
    shuffled = [{**one, "backends": random.sample(one["backends"], len(one["backends"]))} for one in raw]
    random.shuffle(shuffled)
    assert tables(shuffled, raw_node) == tables(raw, raw_node)


@thorough
@given(services(least=1), NODE)
def test_one_more_service_changes_no_element_of_another(raw: list[Raw], raw_node: Raw) -> None:
    before, after = tables(raw[1:], raw_node), tables(raw, raw_node)
    for family, table in before.items():
        for name, one in table.sets.items():
            assert one.elements.items() <= after[family].sets[name].elements.items(), name
        for name, chain in table.chains.items():
            assert after[family].chains[name] == chain


@thorough
@given(services(), NODE)
def test_every_element_of_a_service_is_in_the_table(raw: list[Raw], raw_node: Raw) -> None:
    """Else what is held would say less than what was compiled, and a run that keeps services would lose it."""
    parsed = parse_node(raw_node)
    compiled = compile_services(parse_services(raw, parsed, NFTABLES.problems), parsed)
    for family, elements in compiled.items():
        held = maps_of(make_table(elements, parsed, family))
        assert {name: held.get(name) for name in elements} == elements


@thorough
@given(services(), NODE)
def test_what_is_applied_is_what_is_held_and_a_second_run_changes_nothing(raw: list[Raw], raw_node: Raw) -> None:
    kernel = Kernel(raw_node)
    names = sorted(one["name"] for one in raw)
    summary = kernel.run(raw)
    assert summary == Summary(names, [], [])
    wanted = tables(raw, raw_node)
    assert kernel.held == {family: wanted[family] for family in kernel.held}
    for exclusive in (True, False):
        assert kernel.run(raw, exclusive=exclusive) == Summary([], [], [])
    assert kernel.run([], exclusive=False) == Summary([], [], [])
    assert kernel.run([], "absent") == Summary([], [], names)
    assert kernel.held == {}


CLOSED: Raw = {"name": "node1", "addresses": list(NODE_ADDRESSES), "node_port_addresses": ["192.0.2.0/24"]}
"""Node ports of IPv6 do not answer."""
REMEMBERING: Raw = {
    "port": 53,
    "protocol": "udp",
    "session_affinity": "client_ip",
    "source_ranges": [],
    "node_port": 30043,
}
ONLY_CLOSED = {**REMEMBERING, "name": "service-43", "backends": [{"address": "fd00:1::11", "port": 8080}]}
WITHOUT_LOCAL = {**ONLY_CLOSED, "name": "service-44", "vip": ["fd96::44"], "internal_traffic_policy": "local"}
del WITHOUT_LOCAL["node_port"]


@thorough
@given(services(least=1), services(), NODE, st.integers(0, 5))
@example([ONLY_CLOSED, {"name": "service-42", "port": 80, "vip": ["fd96::42"], "protocol": "tcp"}], [], CLOSED, 0)
@example([WITHOUT_LOCAL], [ONLY_CLOSED], {**CLOSED, "node_port_addresses": []}, 0)
def test_naming_some_services_keeps_the_others(old: list[Raw], new: list[Raw], raw_node: Raw, count: int) -> None:
    named = {one["name"]: one for one in new + [{**one, "source_ranges": []} for one in old[:count]]}
    kernel, wanted = Kernel(raw_node), Kernel(raw_node)
    before = {one["name"]: one for one in old}
    kernel.run(old)
    summary = kernel.run(list(named.values()), exclusive=False)
    wanted.run(list({**before, **named}.values()))
    assert kernel.held == wanted.held
    assert (summary.added, summary.removed) == (sorted(set(named) - set(before)), [])
    assert set(summary.updated) <= {one for one in named if before.get(one, named[one]) != named[one]}


def test_a_number_that_a_service_has_that_stays_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "_WORTH", 0)
    first, second = _with_one_number()
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run([_remembering(first, 1)])
    kept = {name: one.elements for name, one in kernel.held[ip.IPV4].sets.items()}
    kernel.run([_remembering(second, 2)], exclusive=False)
    both = kernel.held[ip.IPV4].sets
    assert {one.comment for one in both[AFFINITY_TIMEOUTS].elements.values()} == {first, second}
    for name in OF_SERVICES:
        assert kept.get(name, {}).items() <= both[name].elements.items() if name in both else name not in kept


def test_services_that_hash_to_the_same_have_no_first_numbers() -> None:
    both = parse_services(
        [_remembering(name, 1 + at) for at, name in enumerate(_with_one_number())], parse_node({"name": "node1"})
    )
    one = number_services(both[:1])
    assert first_numbers(both[:1]) == {*one.services.values(), *one.backends.values()}
    assert first_numbers(both) is None


def _remembering(name: str, last: int) -> Raw:
    backend = {"address": f"10.0.2.{last}", "port": 8080}
    return {
        "name": name,
        "vip": [f"10.96.0.{last}"],
        "port": 80,
        "session_affinity": "client_ip",
        "backends": [backend],
    }


@lru_cache(maxsize=None)
def _with_one_number() -> tuple[str, str]:
    """Two names that hash to the same number."""
    seen: dict[int, str] = {}
    (service,) = parse_services([_remembering("service", 1)], parse_node({"name": "node1"}))
    names = (f"service-{index}" for index in itertools.count())
    numbers = (number_services([service._replace(name=name)]).services[name] for name in names)
    for index, number in enumerate(numbers):
        if number in seen:
            return seen[number], f"service-{index}"
        seen[number] = f"service-{index}"
    raise AssertionError


@thorough
@given(services(least=1), NODE, st.integers(1, 5))
def test_removing_services_leaves_what_the_others_compile_to(raw: list[Raw], raw_node: Raw, count: int) -> None:
    kernel, wanted = Kernel(raw_node), Kernel(raw_node)
    kernel.run(raw)
    gone = [{"name": one["name"]} for one in raw[:count]]
    summary = kernel.run(gone, "absent", exclusive=False)
    assert summary == Summary([], [], sorted(one["name"] for one in gone))
    wanted.run(raw[count:])
    assert kernel.held == wanted.held


@thorough
@given(services(least=1), NODE, st.sampled_from([*CLIENTS, *NODE_ADDRESSES, "127.0.0.1", "::1"]))
def test_every_service_meets_what_the_semantics_say(raw: list[Raw], raw_node: Raw, source: str) -> None:
    """Beside all the others."""
    family = ip.family_of(source)
    table, addresses = tables(raw, raw_node)[family], parse_node(raw_node).addresses
    for one in raw:
        for way, destination, port in _ways(one, family):
            if destination in LOCALHOST and source not in (*NODE_ADDRESSES, *LOCALHOST):
                continue  # dropped: see the next test
            wanted = expected(one, raw_node, way, source, destination)
            found = trace(table, Packet(source, destination, one["protocol"], port, addresses))
            assert agree(found, wanted, EXACT), (one, way, destination, wanted, met(found), found.steps)


@pytest.mark.parametrize("source", ["192.0.2.100", "10.0.1.11"])
def test_nobody_else_reaches_localhost(source: str) -> None:
    """CVE-2020-8558: node ports on localhost are the node's own, and what comes from elsewhere for 127.0.0.0/8 is dropped."""
    service = {"name": "web", "port": 80, "node_port": 30080, "backends": [{"address": "10.0.1.11"}]}
    raw_node = {"name": "node1", "addresses": list(NODE_ADDRESSES), "localhost_node_ports": True}
    table = tables([service], raw_node)[ip.IPV4]
    for port in (30080, 8080):
        (end,) = trace(table, Packet(source, "127.0.0.1", "tcp", port, NODE_ADDRESSES)).outcomes
        assert (end.verdict, end.dnat) == ("drop", False)


def test_the_chains_that_the_kernel_enters_are_called_like_its_hooks() -> None:
    service = {"name": "web", "port": 80, "vip": "10.9.9.9", "backends": [{"address": "10.0.1.11"}]}
    raw_node = {"name": "node1", "addresses": list(NODE_ADDRESSES), "localhost_node_ports": True}
    table = tables([service], raw_node)[ip.IPV4]
    hooks = {name: chain.hook.name for name, chain in table.chains.items() if chain.hook}
    assert hooks == {name: name for name in ("prerouting", "input", "forward", "output", "postrouting")}
    found = trace(table, Packet("192.0.2.100", "10.9.9.9", "tcp", 80, NODE_ADDRESSES))
    assert {step.table for step in found.steps} == {"ip l4-service-proxy"}


def test_what_a_rule_accepts_is_done_with_the_hook() -> None:
    rules = (Rule((Verdict("accept"),)), Rule((Verdict("drop"),)))
    table = Table("ip", "any", {}, {"first": Chain(rules, Hook("filter", "prerouting", 0))}, {})
    found = trace(table, Packet("192.0.2.100", "10.9.9.9", "tcp", 80, NODE_ADDRESSES))
    assert [end.verdict for end in found.outcomes] == [""]
    assert [step.rule for step in found.steps] == ["accept"]


def test_what_a_rule_returns_goes_on_behind_the_jump() -> None:
    first = Chain((Rule((Verdict("jump", "second"),)), Rule((Verdict("accept"),))), Hook("filter", "prerouting", 0))
    second = Chain((Rule((Verdict("return"),)), Rule((Verdict("drop"),))))
    table = Table("ip", "any", {}, {"first": first, "second": second}, {})
    found = trace(table, Packet("192.0.2.100", "10.9.9.9", "tcp", 80, NODE_ADDRESSES))
    assert [end.verdict for end in found.outcomes] == [""]
    assert [step.rule for step in found.steps] == ["jump second", "return", "accept"]


def test_each_rule_that_takes_a_packet_is_told_with_its_chance() -> None:
    backends = [{"address": "10.0.1.11"}, {"address": "10.0.1.12", "weight": 300}]
    service = {"name": "web", "port": 80, "vip": "10.9.9.9", "backends": backends}
    raw_node = {"name": "node1", "addresses": list(NODE_ADDRESSES), "local_cidrs": ["10.0.0.0/16"]}
    packet = Packet("192.0.2.100", "10.9.9.9", "tcp", 80, NODE_ADDRESSES)
    found = trace(tables([service], raw_node)[ip.IPV4], packet)
    to_backend = "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 4%s map @endpoints"
    drawn = zip(("", *(f" offset {slot}" for slot in range(4, 24, 4))), (768, 192, 48, 12, 3, 1))
    assert [(step.chain, step.rule, step.chance) for step in found.steps] == [
        ("prerouting", "ip daddr . meta l4proto . th dport vmap @services", 1),
        ("vip-weighted-4", "ip saddr != @local-sources meta mark set meta mark | 0x00004000", 1),
        ("vip-weighted-4", "goto backends-weighted-4", 1),
        *(("backends-weighted-4", to_backend % slots, Fraction(share, 1024)) for slots, share in drawn),
        ("postrouting", "meta mark & 0x00004000 == 0x00004000 goto masquerading", 1),
        ("masquerading", "meta mark set meta mark & 0xffffbfff", 1),
        ("masquerading", "masquerade fully-random", 1),
    ]


def test_what_a_node_holds_is_the_golden_text() -> None:
    assert golden_text() == GOLDEN.read_text(), "read what has changed, then run golden_nftables.py to write it anew"


def test_what_is_refused_is_told_with_its_reason() -> None:
    kernel = Kernel({"name": "n2", "addresses": ["192.0.2.1", "2001:db8::1"]})
    far = {"name": "far", "external_ips": "203.0.113.9", "port": 80, "external_traffic_policy": "local"}
    backends = [{"address": f"10.0.1.{last}", "node": "n1"} for last in (100, 20, 3)]
    kernel.run([*ALL, {**far, "backends": backends}])
    services = {one["name"]: one for one in NFTABLES.info(kernel, kernel.node)["services"]}
    refusals = {name: [tuple(refusal.values()) for refusal in one["refusals"]] for name, one in services.items()}
    assert {name: found for name, found in refusals.items() if found} == {
        "drained": [("10.96.0.4", 80, "reject", "no backends")],
        "far": [("203.0.113.9", 80, "drop", "no local backends")],
        "lb": [(address, 443, "drop", "outside source ranges") for address in ("203.0.113.6", "2001:db8::6")],
        "none": [(address, 53, "reject", "no backends") for address in ("10.96.0.3", "fd96::3")],
    }
    assert [end["address"] for end in services["far"]["backends"]] == ["10.0.1.3", "10.0.1.20", "10.0.1.100"]


def test_a_local_internal_policy_is_told_by_local_shares() -> None:
    backends = [{"address": "10.0.1.11", "node": "node1"}, {"address": "10.0.1.12", "node": "node2"}]
    web = {"name": "web", "port": 80, "vip": "10.9.9.9", "internal_traffic_policy": "local", "backends": backends}
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run([web])
    (service,) = NFTABLES.info(kernel, kernel.node)["services"]
    assert [(one["address"], one["share"], one["local_share"]) for one in service["backends"]] == [
        ("10.0.1.11", None, 1.0)
    ]


def test_connections_are_told_of_services_and_of_backends() -> None:
    web = {"name": "web", "port": 80, "vip": "10.9.9.9", "node_port": 30080}
    dns = {
        "name": "dns",
        "port": 53,
        "protocol": "udp",
        "vip": ["10.9.9.8", "fd96::8"],
        "session_affinity": "client_ip",
    }
    web["backends"] = [{"address": "10.0.1.11"}, {"address": "10.0.1.12", "weight": 2}]
    dns["backends"] = [{"address": "10.0.1.21"}, {"address": "fd00::21"}]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES), "counters": True})
    kernel.run([web, dns])

    def counted(table: TableId, headers: Mapping[str, SetHeader]) -> dict[str, dict[bytes, int]]:
        """Each address and node port has had 5 new connections, each slot of backends 3, what is gone 100."""
        held = {TABLES[family]: one for family, one in kernel.held.items()}[table]
        packets = {SERVICES: 5, NODE_PORTS: 5}
        return {name: {**dict.fromkeys(held.sets[name].elements, packets.get(name, 3)), b"": 100} for name in headers}

    with mock.patch.object(kernel.facility(own_tables), "counters", side_effect=counted):
        info = NFTABLES.info(kernel, kernel.node)
    told = {
        one["name"]: (one["connections"], [end["connections"] for end in one["backends"]]) for one in info["services"]
    }
    assert told == {"web": (10, [6, 12]), "dns": (10, [3, 3])}
    assert {key: info["counts"][key] for key in ("services", "destinations")} == {"services": 2, "destinations": 4}


def test_what_cannot_be_read_is_told_in_place_of_services() -> None:
    kernel = Kernel({"name": "node1"})
    with mock.patch.object(kernel.facility(own_tables), "read", side_effect=NftError("no nf_tables")):
        info = NFTABLES.info(kernel, kernel.node)
    names = ("services", "destinations", "elements", "sets", "chains", "rules")
    assert info == {"services": [], "counts": dict.fromkeys(names, 0), "unreadable": {"nft": "no nf_tables"}}


@pytest.mark.parametrize("name", ["web", "web-3", "web-weighted-3", "remember-weighted-3"])
def test_a_chain_of_somebody_else_is_not_made(name: str) -> None:
    assert ChainMaker(parse_node({"name": "node1"}), ip.IPV4).make(name) is None


def test_an_element_that_leads_to_a_chain_of_somebody_else_makes_none() -> None:
    parsed = parse_node({"name": "node1"})
    table = make_table({SERVICES: {b"key": Element(Verdict("goto", "web"))}}, parsed, ip.IPV4)
    assert table.sets[SERVICES].elements == {b"key": Element(Verdict("goto", "web"))}
    assert "web" not in table.chains


def test_localhost_is_guarded_without_services_too() -> None:
    """route_localnet is set by the setting, whatever services there are; at boot as well."""
    for setting, family_names in ((True, ["ipv4"]), (False, [])):
        parsed = parse_node({"name": "node1", "localhost_node_ports": setting})
        found = NFTABLES.render(NFTABLES.compile([], parsed), parsed).nftables
        assert list(found) == family_names
        assert all("input" in table.chains for table in found.values())


def _ways(one: Mapping[str, Any], family: str) -> list[tuple[str, str, int]]:
    ways = [(way, address, one["port"]) for way in (VIP, EXTERNAL, BALANCER) for address in one[way]]
    if "node_port" in one:
        own = [*NODE_ADDRESSES, *LOCALHOST]
        ways += [(NODE_PORT, address, one["node_port"]) for address in own]
    return [way for way in ways if ip.family_of(way[1]) == family]


@thorough
@given(services(), NODE)
def test_the_number_of_chains_does_not_depend_on_how_many_services_there_are(raw: list[Raw], raw_node: Raw) -> None:
    """The same services at other addresses, ten times over."""
    more = [
        {**one, "name": f"{one['name']}-{copy}", "port": one["port"] + 1000 * copy, **_other_node_port(one, copy)}
        for one in raw
        for copy in range(10)
    ]
    few, many = tables(raw, raw_node), tables(more, raw_node)
    for family, table in few.items():
        assert many[family].chains == table.chains
        assert set(many[family].sets) == set(table.sets)


def _other_node_port(one: Raw, copy: int) -> Raw:
    return {"node_port": one["node_port"] + 1000 * copy} if one.get("node_port") else {}


@thorough
@given(services(), NODE)
def test_services_are_read_back_as_they_were_given(raw: list[Raw], raw_node: Raw) -> None:
    kernel = Kernel(raw_node)
    kernel.run(raw)
    info = NFTABLES.info(kernel, kernel.node)
    assert info["unreadable"] == {}
    found = {one["name"]: one for one in info["services"]}
    assert set(found) == {one["name"] for one in raw}
    for one in raw:
        seen = found[one["name"]]
        assert (seen["protocol"], seen["node_port"]) == (one["protocol"], one.get("node_port"))
        for key in (VIP, EXTERNAL, BALANCER):
            assert set(seen[key]) == set(one[key])


@pytest.mark.parametrize(
    ("at", "of", "taken"),
    [
        (None, None, {("one", "10.9.9.9"), ("one", None), ("two", "10.9.9.8")}),
        ({"10.9.9.8", None}, None, {("one", None), ("two", "10.9.9.8")}),
        (None, {"one"}, {("one", "10.9.9.9"), ("one", None)}),
        ({"10.9.9.8"}, {"one"}, set()),
    ],
)
def test_claims_are_those_at_some_addresses_and_of_some_services(at: Any, of: Any, taken: Any) -> None:
    one = {"name": "one", "vip": "10.9.9.9", "port": 80, "node_port": 30080}
    table = tables([one, {"name": "two", "vip": "10.9.9.8", "port": 80}], {"name": "node1"})[ip.IPV4]
    assert {(claim.service, claim.address) for claim in claims_of(maps_of(table), ip.IPV4, at, of)} == taken
