# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds of the iptables compiler, and of plans with it, for any services at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from agreement import agree, met
from hypothesis import given, settings
from hypothesis import strategies as st
from semantics import BALANCER, EXTERNAL, NODE_PORT, VIP, expected, is_kept_from_localhost
from strategies import CLIENTS, NODE, NODE_ADDRESSES, service, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables import balance as chances
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables import dispatch
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import (
    compile_service,
    compile_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.desired import (
    with_services,
    without_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.summary import summarise
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import (
    Layout,
    ServiceRules,
    owner_of,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.walk import trace
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model import addresses as ip
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.families import service_families
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import (
    ChainKey,
    Desired,
    Observed,
    Rules,
    target_of,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import parse_save
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import TARGETS
from ansible_collections.layer4.service_proxy.tests.unit.sampling import EXAMPLES

Raw = dict[str, Any]
thorough = settings(max_examples=EXAMPLES)
LONGEST_CHAIN_NAME = 28


@pytest.fixture(scope="module", autouse=True, params=["lists", "trees"])
def shape(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds of the lists that few services make, and of the trees that many make."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "trees":
            patch.setattr(dispatch, "LONGEST_LIST", 2)
            patch.setattr(dispatch, "FEWEST_FOR_A_CHAIN", 2)
            patch.setattr(chances, "LONGEST_LIST", 2)
        yield


def flat(chains: Mapping[ChainKey, Rules]) -> dict[ChainKey, Rules]:
    """The chains with each dispatch tree as the one list that it stands for."""
    layout = Layout("L4")
    found: dict[ChainKey, Rules] = {}
    for key, rules in chains.items():
        first = layout.dispatch(key)
        own = [rule for rule in rules if first is None or layout.dispatch((key[0], target_of(rule) or "")) != first]
        found[first or key] = sorted([*found.get(first, ()), *own]) if first else own
    return found


def compiled(raw: Sequence[Raw], node: Raw) -> dict[str, Desired]:
    parsed = parse_node(node)
    return compile_services(parse_services(raw, parsed), parsed)


def text(raw: Sequence[Raw], node: Raw, family: str) -> str:
    return render_services(raw, {"node": node, "ip_version": family})


def held(rules: str, node: Raw) -> Observed:
    """What a kernel holds that was given these rules and nothing else."""
    layout, found = Layout(node.get("chain_prefix", "L4")), Observed()
    for table in re.findall(r"^\*(\w+)\n(.*?)^COMMIT$", rules, re.MULTILINE | re.DOTALL):
        for chain, lines in parse_save(table[1]).items():
            key = (table[0], chain)
            (found.chains if layout.is_ours(key) else found.hooks)[key] = lines
    return found


def parts(raw: Sequence[Raw], node: Raw, family: str) -> list[ServiceRules]:
    parsed = parse_node(node)
    wanted = parse_services(raw, parsed)
    return [compile_service(one, parsed, family) for one in wanted if family in service_families(one, parsed)]


def changed_lines(desired: Desired, observed: Observed) -> str:
    result = plan(desired, observed)
    return result.before + result.after


def assert_holds(desired: Desired, rules: str, node: Raw) -> None:
    """The desired state is the one that these rules make."""
    assert changed_lines(desired, held(rules, node)) == ""


@thorough
@given(services(), NODE, st.randoms(use_true_random=False))
def test_the_order_of_services_and_backends_does_not_matter(raw: list[Raw], node: Raw, random: Any) -> None:
    shuffled = [{**one, "backends": random.sample(one["backends"], len(one["backends"]))} for one in raw]
    random.shuffle(shuffled)
    assert render_services(shuffled, {"node": node}) == render_services(raw, {"node": node})


@thorough
@given(services(), NODE)
def test_what_is_rendered_and_read_again_needs_no_change(raw: list[Raw], node: Raw) -> None:
    parsed, names = parse_node(node), {one["name"] for one in raw}
    for family, desired in compiled(raw, node).items():
        rules = text(raw, node, family)
        assert_holds(desired, rules, node)
        for exclusive in (False, True):
            again = with_services(parts(raw, node, family), names, held(rules, node), parsed, family, exclusive)
            assert_holds(again, rules, node)
        assert_holds(without_services((), held(rules, node), parsed), rules, node)


@thorough
@given(services(least=1), NODE)
def test_one_more_service_changes_no_line_of_another(raw: list[Raw], node: Raw) -> None:
    new, before = raw[0]["name"], compiled(raw[1:], node)
    for family, after in compiled(raw, node).items():
        flat_after = flat(after.chains)
        for key, rules in flat(before[family].chains).items():
            assert _is_part(rules, flat_after[key]), key
        own = {key for key in after.chains if Layout("L4").is_per_service(key) and key not in before[family].chains}
        assert {owner_of(rule) for key in own for rule in after.chains[key]} <= {new}
        observed = held(text(raw[1:], node, family), node)
        summary = summarise([after], [observed], [plan(after, observed)], Layout("L4"))
        assert (summary.updated, summary.removed) == ([], [])


def _is_part(rules: Sequence[str], others: Sequence[str]) -> bool:
    """Whether all these stand among the others, in this order."""
    left = iter(others)
    return all(rule in left for rule in rules)


@thorough
@given(services(least=1), NODE, st.integers(1, 5))
def test_removing_services_leaves_what_the_others_compile_to(raw: list[Raw], node: Raw, count: int) -> None:
    gone = {one["name"] for one in raw[:count]}
    for family in ip.FAMILIES:
        rest = text(raw[count:], node, family)
        assert_holds(without_services(gone, held(text(raw, node, family), node), parse_node(node)), rest, node)


@thorough
@given(services(least=1), services(), NODE, st.integers(0, 5))
def test_naming_some_services_keeps_the_others(old: list[Raw], new: list[Raw], node: Raw, count: int) -> None:
    """Some come, some that are there change, the rest stays."""
    named = {one["name"]: one for one in new + [{**one, "source_ranges": []} for one in old[:count]]}
    whole = list({**{one["name"]: one for one in old}, **named}.values())
    for family in ip.FAMILIES:
        observed = held(text(old, node, family), node)
        desired = with_services(
            parts(list(named.values()), node, family), set(named), observed, parse_node(node), family, exclusive=False
        )
        assert_holds(desired, text(whole, node, family), node)


MARKED = {("nat", "L4-MARK-MASQ"), ("nat", "L4-POSTROUTING"), ("filter", "L4-FORWARD")}
DISPATCH = {("nat", "L4-SERVICES"), ("filter", "L4-FIREWALL")}


@pytest.mark.parametrize(
    ("setting", "chains"),
    [
        ({"masquerade_mark": "0x8/0x8"}, MARKED),
        ({"snat_address": "192.0.2.99"}, {("nat", "L4-POSTROUTING")}),
        ({"node_port_addresses": ["192.0.2.0/27", "2001:db8::/96"]}, DISPATCH),
        ({"localhost_node_ports": True}, DISPATCH | {("filter", "L4-LOCALHOST")}),
        ({"drop_invalid": False}, {("filter", "L4-INVALID"), ("filter", "L4-FORWARD")}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@given(raw=services(), node=NODE)
@thorough
def test_a_node_setting_changes_the_chains_that_it_is_about(
    raw: list[Raw], node: Raw, setting: Raw, chains: set[ChainKey]
) -> None:
    before, after = compiled(raw, node), compiled(raw, {**node, **setting})
    for family in ip.FAMILIES:
        old, new = flat(before[family].chains), flat(after[family].chains)
        assert {key for key in set(old) | set(new) if old.get(key) != new.get(key)} <= chains


@thorough
@given(services(), NODE)
def test_the_chain_prefix_is_all_that_it_changes(raw: list[Raw], node: Raw) -> None:
    """Two of one length: with a longer one a chain of a tree may need its short name (`Layout.branch`)."""
    ours, kube = (render_services(raw, {"node": {**node, "chain_prefix": prefix}}) for prefix in ("L4L4", "KUBE"))
    renamed = re.sub(r"\bL4L4(?=[- ]\w)", "KUBE", ours)
    assert sorted(renamed.splitlines()) == sorted(kube.splitlines())


@thorough
@given(services(), NODE)
def test_every_jump_has_its_chain_and_every_chain_of_a_service_its_jump(raw: list[Raw], node: Raw) -> None:
    layout = Layout("LONGEST8")
    for desired in compiled(raw, {**node, "chain_prefix": layout.prefix}).values():
        led_to = {(jump.table, target_of(jump.rule)) for jump in desired.jumps}
        for (table, dummy), rules in desired.chains.items():
            led_to |= {(table, target_of(rule)) for rule in rules if target_of(rule) not in TARGETS}
        assert led_to <= set(desired.chains)
        assert {key for key in desired.chains if layout.is_per_service(key)} <= led_to
        assert all(len(name) <= LONGEST_CHAIN_NAME for dummy, name in desired.chains)


@thorough
@given(services(least=1), NODE, st.sampled_from([*CLIENTS, *NODE_ADDRESSES, "127.0.0.1", "::1"]))
def test_every_service_meets_what_the_semantics_say(raw: list[Raw], node: Raw, source: str) -> None:
    """Beside all the others: a rule of one is never in the way of another."""
    family = ip.family_of(source)
    state, addresses = compiled(raw, node)[family], parse_node(node).addresses
    for one in raw:
        for way, destination, port in _ways(one, family):
            wanted = expected(one, node, way, source, destination)
            found = trace(state, Packet(source, destination, one["protocol"], port, addresses))
            assert agree(found, wanted), (one, way, destination, wanted, met(found), found.steps)


def _ways(one: Mapping[str, Any], family: str) -> list[tuple[str, str, int]]:
    ways = [(way, address, one["port"]) for way in (VIP, EXTERNAL, BALANCER) for address in one[way]]
    if "node_port" in one:
        own = [*NODE_ADDRESSES, "127.0.0.1", "::1"]
        ways += [(NODE_PORT, address, one["node_port"]) for address in own]
    return [way for way in ways if ip.family_of(way[1]) == family]


@thorough
@given(service(1), NODE, st.sampled_from(CLIENTS))
def test_other_ports_and_protocols_go_on_as_before(one: Raw, node: Raw, source: str) -> None:
    """Semantics, line 4."""
    family = ip.family_of(source)
    state, addresses = compiled([one], node)[family], parse_node(node).addresses
    protocol = {"tcp": "udp", "udp": "sctp", "sctp": "tcp"}[one["protocol"]]
    for dummy, destination, port in _ways(one, family):
        for packet in (
            Packet(source, destination, one["protocol"], port + 1, addresses),
            Packet(source, destination, protocol, port, addresses),
        ):
            dropped = is_kept_from_localhost(node, source, destination)
            assert set(trace(state, packet).outcomes) == {packet._replace(verdict="drop") if dropped else packet}
