# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables rules that a node shall have, from services that a task names and from those that it holds: as if all had been given."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import (
    compile_service,
    compile_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.desired import (
    edit_services,
    with_services,
    without_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import IPV4
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Observed, target_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan

NODE = parse_node({"name": "node1", "localhost_node_ports": True})
BACKENDS = [{"address": "10.0.0.11"}, {"address": "10.0.0.12"}]
KINDS: tuple[dict[str, Any], ...] = (
    {"backends": BACKENDS},
    {"backends": []},
    {
        "backends": BACKENDS,
        "session_affinity": "client_ip",
        "load_balancer_ips": ["198.51.100.9"],
        "source_ranges": ["192.0.2.0/24"],
    },
)
MANY: list[dict[str, Any]] = [
    {"name": f"s{number}", "vip": f"10.96.{number % 7}.{number}", "port": 80 + number, "node_port": 30000 + number}
    | KINDS[number % 3]
    for number in range(120)
]
"""Enough for trees of addresses, of node ports and of services without backends."""
FEW = [{**one, "node_port": None} for one in MANY[:4]] + MANY[6:7]


def compiled(services: list[dict[str, Any]], node: Node = NODE) -> Desired:
    return compile_services(parse_services(services, node), node)[IPV4]


def held(services: list[dict[str, Any]]) -> Observed:
    """What a kernel holds that was given these services."""
    found = compiled(services)
    hooks: dict[Any, Any] = {}
    for jump in found.jumps:
        hooks.setdefault((jump.table, jump.hook), []).append(jump.rule)
    return Observed(dict(found.chains), hooks)


def named(services: list[dict[str, Any]]) -> set[str]:
    return {one["name"] for one in services}


def difference(desired: Desired, services: list[dict[str, Any]]) -> str:
    """What is not as these services alone make it."""
    found = plan(desired, held(services))
    return found.before + found.after


def some_changed(services: list[dict[str, Any]], names: set[str], **how: Any) -> Desired:
    """The state in which some services are as they are now given, on a node that holds all of MANY."""
    parts = [compile_service(one, NODE, IPV4) for one in parse_services(services, NODE)]
    return with_services(parts, names, held(MANY), NODE, IPV4, **{"exclusive": False, **how})


@pytest.mark.parametrize("count", [1, 50, 100, 118, 119])
def test_what_is_left_of_many_services_is_what_the_others_compile_to(count: int) -> None:
    desired = without_services(named(MANY[:count]), held(MANY), NODE)
    assert difference(desired, MANY[count:]) == ""


@pytest.mark.parametrize("gone", [0, 4])
def test_what_is_left_of_few_services_has_no_empty_chain_of_node_ports(gone: int) -> None:
    rest = [one for index, one in enumerate(FEW) if index != gone]
    desired = without_services({FEW[gone]["name"]}, held(FEW), NODE)
    assert difference(desired, rest) == ""
    assert (("nat", "L4-NODEPORTS") in desired.chains) is (gone == 0)


def test_the_last_node_port_goes_from_a_tree() -> None:
    without = [{**one, "node_port": None} for one in MANY[1:]]
    desired = without_services({MANY[0]["name"]}, held([MANY[0], *without]), NODE)
    assert difference(desired, without) == ""


def test_with_the_last_service_goes_all_but_what_guards_localhost() -> None:
    desired = without_services(named(FEW), held(FEW), NODE)
    assert list(desired.chains) == [("filter", "L4-LOCALHOST")]
    assert [(jump.table, jump.hook) for jump in desired.jumps] == [("filter", "INPUT")]
    open_node = NODE._replace(localhost_node_ports=False)
    assert without_services(named(FEW), held(FEW), open_node) == Desired()


def test_shared_chains_stay_where_they_are_to_be_kept() -> None:
    desired = without_services(named(FEW), held(FEW), NODE, keep_shared=True)
    layout = Layout("L4")
    assert {("nat", "L4-SERVICES"), ("nat", "L4-POSTROUTING"), ("filter", "L4-FORWARD")} <= set(desired.chains)
    assert not [key for key in desired.chains if layout.is_per_service(key)]
    assert desired.chains["nat", "L4-SERVICES"] == []
    assert some_changed([], named(MANY), keep_shared=True).chains["nat", "L4-SERVICES"] == []
    assert ("nat", "L4-SERVICES") not in some_changed([], named(MANY)).chains


def test_services_that_are_not_named_stay_and_named_ones_are_as_given() -> None:
    changed = [{**one, "backends": BACKENDS[:1]} for one in MANY[:5]]
    new = {"name": "new", "vip": "10.97.0.1", "port": 80, "backends": BACKENDS}
    desired = some_changed([*changed, new], named(MANY[:5]) | {"new"})
    assert difference(desired, [*changed, *MANY[5:], new]) == ""
    exclusive = some_changed([*changed, new], named(MANY[:5]) | {"new"}, exclusive=True)
    assert difference(exclusive, [*changed, new]) == ""


def test_services_that_stay_lead_to_no_chain_that_is_missing() -> None:
    """They were compiled with local sources, which the node does not have any more."""
    mark = ("nat", "L4-MARK-NONLOCAL")
    before = Observed(compiled(MANY, NODE._replace(local_cidrs=("10.0.0.0/16",))).chains)
    for masquerade_all, rules in ((False, []), (True, ['-m comment --comment "no local source" -j L4-MARK-MASQ'])):
        node = NODE._replace(masquerade_all=masquerade_all)
        assert with_services([], set(), before, node, IPV4, exclusive=False).chains[mark] == rules
    assert mark not in some_changed([], set()).chains


def test_chains_whose_rules_somebody_took_away_go_with_their_service() -> None:
    observed, rest = held(MANY), held(MANY[1:])
    emptied = [key for key in observed.chains if Layout("L4").is_of_backend(key) and key not in rest.chains]
    observed.chains.update({key: [] for key in emptied})
    assert len(emptied) == len(BACKENDS)
    assert difference(without_services({MANY[0]["name"]}, observed, NODE), MANY[1:]) == ""


def test_a_rule_without_an_owner_stays_in_its_order_at_the_end_of_the_first_chain() -> None:
    observed, first = held(MANY), ("nat", "L4-SERVICES")
    foreign = '-s 192.0.2.7/32 -m comment --comment "by hand" -j RETURN'
    observed.chains[first] = [foreign, *observed.chains[first]]
    desired = without_services({MANY[0]["name"]}, observed, NODE)
    *branches, behind, from_localhost, last = desired.chains[first]
    assert (foreign in branches, behind) == (False, foreign)
    assert [target_of(one) for one in (from_localhost, last)] == ["L4-NODEPORTS"] * 2


def test_lists_that_need_no_tree_keep_their_order() -> None:
    observed, first = held(FEW), ("nat", "L4-SERVICES")
    observed.chains[first] = ["-s 192.0.2.7/32 -j RETURN", *observed.chains[first]]
    assert without_services({FEW[0]["name"]}, observed, NODE).chains[first][0] == "-s 192.0.2.7/32 -j RETURN"


def test_a_chain_that_nothing_leads_to_is_known_by_its_name() -> None:
    observed = held(MANY[1:])
    observed.chains["nat", Layout("L4").chain_name("SVC", MANY[0]["name"])] = []
    assert difference(without_services({MANY[0]["name"]}, observed, NODE), MANY[1:]) == ""


def test_a_service_that_leads_to_another_leaves_its_chains() -> None:
    observed = held(MANY)
    own, other = (("nat", Layout("L4").chain_name("SVC", MANY[number]["name"])) for number in (0, 3))
    observed.chains[own] = [f'-m comment --comment "{MANY[0]["name"]}: by hand" -j {other[1]}', *observed.chains[own]]
    assert difference(without_services({MANY[0]["name"]}, observed, NODE), MANY[1:]) == ""


def test_named_services_are_edited_in_a_state_and_others_stay() -> None:
    changed = [{**one, "backends": BACKENDS[:1]} for one in MANY[:5]]
    parts = {IPV4: [compile_service(one, NODE, IPV4) for one in parse_services(changed, NODE)]}
    edited = edit_services({IPV4: compiled(MANY)}, parts, named(MANY[:6]), NODE)
    assert difference(edited[IPV4], [*changed, *MANY[6:]]) == ""
