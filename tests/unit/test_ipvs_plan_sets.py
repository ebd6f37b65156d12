# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets and device of the ipvs dataplane: the plan leads to what is wanted, and tells exactly what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.plan_addresses import plan_addresses
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.plan_sets import (
    ServiceSetsPlan,
    plan_service_sets,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.sets import WantedSet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import Entry, HeldSet, SetHeader
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import DeviceState

from .fake_ipset import FakeIpset

HEADERS = {name: SetHeader(name, "hash:ip,port", "ipv4", comment=True, hashsize=64) for name in ("A", "B", "C")}
contents = st.dictionaries(
    st.sampled_from(sorted(HEADERS)),
    st.dictionaries(
        st.sampled_from(["10.0.0.1,tcp:80", "10.0.0.2,tcp:80", "10.0.0.3,udp:53"]),
        st.sampled_from(["", "x: vip", "y: vip"]),
    ),
)


def wanted(given_sets: dict[str, dict[str, str]]) -> dict[str, WantedSet]:
    return {
        name: WantedSet(HEADERS[name], {element: Entry(element, comment=comment) for element, comment in held.items()})
        for name, held in given_sets.items()
    }


def held(given_sets: dict[str, dict[str, str]]) -> dict[str, HeldSet]:
    """As the kernel reports it: without a comment where it is empty."""
    return {
        name: HeldSet(
            HEADERS[name], 0, (), {element: Entry(element, comment=comment or None) for element, comment in one.items()}
        )
        for name, one in given_sets.items()
    }


def comments(sets: FakeIpset) -> dict[str, dict[str, str]]:
    return {name: {e.element: e.comment or "" for e in one.entries.values()} for name, one in sets.sets.items()}


def run(plan: ServiceSetsPlan, sets: FakeIpset) -> None:
    for step in (*plan.additions, *plan.removals, *plan.destroyed):
        step.apply(sets)


@given(contents, contents)
def test_a_plan_leads_to_what_is_wanted_and_back(before: Any, after: Any) -> None:
    plan = plan_service_sets(wanted(after), held(before))
    sets = FakeIpset(*held(before).values())
    run(plan, sets)
    assert comments(sets) == after
    assert plan.changed == (before != after)
    assert bool(plan.before or plan.after) == plan.changed
    for step in reversed((*plan.additions, *plan.removals, *plan.destroyed)):
        step.undo(sets)
    assert comments(sets) == before


def test_entries_come_first_and_go_last() -> None:
    after = {"A": {"10.0.0.1,tcp:80": "x: vip"}, "B": {"10.0.0.1,tcp:80": ""}, "C": {}}
    plan = plan_service_sets(wanted(after), held({"A": {"10.0.0.2,tcp:80": "", "10.0.0.1,tcp:80": "y: vip"}}))
    sets = FakeIpset(*held({"A": {"10.0.0.2,tcp:80": "", "10.0.0.1,tcp:80": "y: vip"}}).values())
    run(plan, sets)
    assert sets.calls == ["add A", "create B", "add B", "create C", "delete A"]
    assert plan.before.splitlines() == ['add A 10.0.0.1,tcp:80 comment "y: vip"', "add A 10.0.0.2,tcp:80"]
    assert plan.after.splitlines() == [
        'add A 10.0.0.1,tcp:80 comment "x: vip"',
        "create B hash:ip,port family inet hashsize 64 comment",
        "add B 10.0.0.1,tcp:80",
        "create C hash:ip,port family inet hashsize 64 comment",
    ]


def test_a_set_that_goes_is_shown_whole() -> None:
    plan = plan_service_sets({}, held({"B": {"10.0.0.2,tcp:80": "", "10.0.0.1,tcp:80": "x: vip"}}))
    assert (plan.additions, plan.removals, len(plan.destroyed), plan.after) == ([], [], 1, "")
    assert plan.before.splitlines() == [
        "create B hash:ip,port family inet hashsize 64 comment",
        'add B 10.0.0.1,tcp:80 comment "x: vip"',
        "add B 10.0.0.2,tcp:80",
    ]


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ({}, True),
        ({"hashsize": 1024, "maxelem": 5, "counters": True}, True),
        ({"type": "hash:ip"}, False),
        ({"family": "ipv6"}, False),
        ({"timeout": 0}, False),
        ({"timeout": 60}, False),
        ({"comment": False}, False),
    ],
)
def test_a_set_of_another_kind_is_refused(found: dict[str, Any], fits: bool) -> None:
    there = {"A": HeldSet(replace(HEADERS["A"], **found), 0, (), {})}
    if fits:
        assert not plan_service_sets(wanted({"A": {}}), there).changed
        return
    with pytest.raises(InvalidServices) as raised:
        plan_service_sets(wanted({"A": {}}), there)
    (line,) = str(raised.value).splitlines()
    assert line.startswith('set "A" exists as "create A hash:ip')
    assert line.endswith(
        'and is needed as "create A hash:ip,port family inet hashsize 64 comment": remove it, or choose another chain_prefix'
    )


def test_comments_are_no_need_of_a_set_without_them() -> None:
    header = replace(HEADERS["A"], comment=False)
    for found in (header, HEADERS["A"]):
        assert not plan_service_sets({"A": WantedSet(header, {})}, {"A": HeldSet(found, 0, (), {})}).changed


UP = DeviceState("dummy", True, frozenset({"10.0.0.2", "fd00::1"}))


def test_the_device_comes_with_its_first_address() -> None:
    plan = plan_addresses({"fd00::1", "10.0.0.2", "10.0.0.1"}, None)
    assert (plan.add, plan.remove) == (["10.0.0.1", "10.0.0.2", "fd00::1"], [])
    assert (plan.create, plan.up, plan.delete, plan.changed) == (True, False, False, True)
    assert plan.before() == []
    assert plan.after() == [
        "link add l4-ipvs0 type dummy",
        "link set l4-ipvs0 up",
        "address add 10.0.0.1/32 dev l4-ipvs0",
        "address add 10.0.0.2/32 dev l4-ipvs0",
        "address add fd00::1/128 dev l4-ipvs0",
    ]


def test_the_device_goes_with_its_last_address() -> None:
    plan = plan_addresses(set(), UP)
    assert (plan.add, plan.remove) == ([], ["10.0.0.2", "fd00::1"])
    assert (plan.create, plan.up, plan.delete, plan.changed) == (False, False, True, True)
    assert plan.before() == [
        "link add l4-ipvs0 type dummy",
        "address add 10.0.0.2/32 dev l4-ipvs0",
        "address add fd00::1/128 dev l4-ipvs0",
    ]
    assert plan.after() == []


def test_addresses_come_and_go() -> None:
    plan = plan_addresses({"10.0.0.1", "fd00::1"}, UP)
    assert (plan.add, plan.remove) == (["10.0.0.1"], ["10.0.0.2"])
    assert (plan.create, plan.up, plan.delete, plan.changed) == (False, False, False, True)
    assert plan.before() == ["address add 10.0.0.2/32 dev l4-ipvs0"]
    assert plan.after() == ["address add 10.0.0.1/32 dev l4-ipvs0"]


def test_a_device_that_is_down_is_set_up() -> None:
    plan = plan_addresses({"10.0.0.2", "fd00::1"}, UP._replace(up=False))
    assert (plan.add, plan.remove, plan.up, plan.changed) == ([], [], True, True)
    assert plan.before() == ["link set l4-ipvs0 down"]
    assert plan.after() == ["link set l4-ipvs0 up"]


def test_nothing_to_do() -> None:
    assert not plan_addresses(set(), None).changed
    assert not plan_addresses({"10.0.0.2", "fd00::1"}, UP).changed
    nothing = DeviceState("dummy", False, frozenset())
    plan = plan_addresses(set(), nothing)
    assert (plan.up, plan.delete) == (False, True)


@pytest.mark.parametrize(("kind", "shown"), [("bridge", "bridge"), ("", "physical")])
def test_a_device_of_somebody_else_is_refused(kind: str, shown: str) -> None:
    with pytest.raises(InvalidServices) as raised:
        plan_addresses(set(), DeviceState(kind, True, frozenset()))
    assert str(raised.value) == f"device l4-ipvs0 exists and is of kind {shown}: must be dummy: rename it"
