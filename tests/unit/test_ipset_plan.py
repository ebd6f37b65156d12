# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans of ipsets: in which order, what they say, and that a change which fails midway is taken back."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    Entries,
    Entry,
    HeldSet,
    SetHeader,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset import (
    SetInUseError,
    SetPlan,
    plan_absent,
    plan_leftover,
    plan_present,
    scratch_name,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset_steps import bind
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import run
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.entries import InvalidSetError
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.request import Wanted
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipset import FakeIpset, RefusedError

HEADER = SetHeader("s", "hash:ip", "ipv4", timeout=300, counters=True, comment=True, hashsize=1024, maxelem=65536)
SCRATCH = scratch_name("s")


def entries(*given: Entry | str) -> Entries:
    listed = [Entry(one) if isinstance(one, str) else one for one in given]
    return {entry.element: entry for entry in listed}


def held(*given: Entry | str, references: int = 1) -> HeldSet:
    return HeldSet(HEADER, references, (), entries(*given))


def kept(element: str, **options: Any) -> Entry:
    """As the kernel reports an entry of a set with everything."""
    return Entry(element, **{"timeout": 200, "packets": 3, "bytes": 30, **options})


OLD = held(kept("10.0.0.1"), kept("10.0.0.2", comment="two"), kept("10.0.0.3", timeout=0), kept("10.0.0.4"))
WANTED = entries("10.0.0.1", Entry("10.0.0.2", comment="new"), "10.0.0.8", Entry("10.0.0.9", timeout=7))

PLANS = {
    "create": (Wanted(HEADER, WANTED, False), None, ["create s", "add s"]),
    "create empty": (Wanted(HEADER, {}, False), None, ["create s"]),
    "add": (Wanted(HEADER, WANTED, False), OLD, ["add s"]),
    "swap": (Wanted(HEADER, WANTED, True), OLD, [f"create {SCRATCH}", f"add {SCRATCH}", f"swap s {SCRATCH}", f"destroy {SCRATCH}"]),
    "empty": (Wanted(HEADER, {}, True), OLD, [f"create {SCRATCH}", f"swap s {SCRATCH}", f"destroy {SCRATCH}"]),
    "two change": (
        Wanted(HEADER, entries("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.5"), True),
        OLD,
        [f"create {SCRATCH}", f"add {SCRATCH}", f"swap s {SCRATCH}", f"destroy {SCRATCH}"],
    ),
    "one goes": (Wanted(HEADER, entries("10.0.0.1", "10.0.0.2", "10.0.0.3"), True), OLD, ["delete s"]),
    "one comes": (Wanted(HEADER, entries("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"), True), OLD, ["add s"]),
    "options": (
        Wanted(replace(HEADER, maxelem=9, comment=False), {}, False),
        OLD,
        [f"create {SCRATCH}", f"add {SCRATCH}", f"swap s {SCRATCH}", f"destroy {SCRATCH}"],
    ),
    "nothing": (Wanted(HEADER, entries("10.0.0.1"), False), OLD, []),
}  # fmt: skip


def apply(plan: SetPlan, sets: FakeIpset) -> None:
    run(bind(plan.steps, sets))


def kernel(one: HeldSet | None) -> FakeIpset:
    return FakeIpset(*([copy.deepcopy(one)] if one else []))


@pytest.mark.parametrize("name", PLANS)
def test_steps_and_what_is_reached(name: str) -> None:
    wanted, before, calls = PLANS[name]
    sets, plan = kernel(before), plan_present(wanted, before)
    apply(plan, sets)
    assert sets.calls == calls
    assert plan.changed == bool(calls)
    assert list(sets.sets) == ["s"]
    assert sets.sets["s"].header == wanted.header
    assert not plan_present(wanted, sets.read("s")).changed
    unwanted = set() if wanted.exclusive or before is None else set(before.entries)
    assert set(sets.sets["s"].entries) == set(wanted.entries) | unwanted


@pytest.mark.parametrize("name", [name for name, (_wanted, _before, calls) in PLANS.items() if calls])
def test_a_change_that_fails_anywhere_is_taken_back(name: str) -> None:
    wanted, before, calls = PLANS[name]
    for fail_at in range(1, len(calls) + 1):
        sets = kernel(before)
        sets.fail_at = fail_at
        with pytest.raises(RefusedError, match=calls[fail_at - 1]):
            apply(plan_present(wanted, before), sets)
        assert sets.sets == ({"s": before} if before else {})


def test_a_removal_is_taken_back() -> None:
    unused = OLD._replace(references=0)
    for removal, going in ((None, 0), (entries("10.0.0.1", "10.0.0.2", "10.7.7.7"), 2)):
        sets = kernel(unused)
        steps = bind(plan_absent(unused, removal).steps, sets)
        steps[0].apply()
        assert len(sets.sets["s"].entries if sets.sets else {}) == (4 - going if removal else 0)
        steps[0].undo()
        assert sets.sets == {"s": unused}


def test_the_diff_has_no_seconds_and_counters_that_run() -> None:
    assert plan_present(PLANS["swap"][0], OLD).diff == {
        "before": 'add s 10.0.0.2 comment "two"\nadd s 10.0.0.3 timeout 0\nadd s 10.0.0.4\n',
        "after": 'add s 10.0.0.2 comment "new"\nadd s 10.0.0.8 timeout 300\nadd s 10.0.0.9 timeout 7\n',
    }
    create = "create s hash:ip family inet hashsize 1024 maxelem"
    assert plan_present(PLANS["options"][0], OLD).diff == {
        "before": f'{create} 65536 timeout 300 counters comment\nadd s 10.0.0.2 comment "two"\n',
        "after": f"{create} 9 timeout 300 counters\nadd s 10.0.0.2\n",
    }


def test_the_diff_of_a_new_set_has_all_its_lines() -> None:
    assert plan_present(Wanted(HEADER, entries("10.0.0.1"), False), None).diff == {
        "before": "",
        "after": (
            "create s hash:ip family inet hashsize 1024 maxelem 65536 timeout 300 counters comment\n"
            "add s 10.0.0.1 timeout 300\n"
        ),
    }


def test_the_diff_has_the_timeout_that_an_entry_is_given() -> None:
    assert plan_present(Wanted(HEADER, entries(Entry("10.0.0.3", timeout=9)), False), OLD).diff == {
        "before": "add s 10.0.0.3 timeout 0\n",
        "after": "add s 10.0.0.3 timeout 9\n",
    }


def test_the_diff_of_a_new_comment_has_no_seconds_that_run() -> None:
    wanted = Wanted(HEADER, entries(Entry("10.0.0.3", timeout=9, comment="new")), False)
    assert plan_present(wanted, held(Entry("10.0.0.3", timeout=200))).diff == {
        "before": "add s 10.0.0.3\n",
        "after": 'add s 10.0.0.3 comment "new"\n',
    }


def test_a_rebuilt_set_keeps_order_time_left_and_counters() -> None:
    sets = kernel(OLD)
    apply(plan_present(Wanted(HEADER, WANTED, True), OLD), sets)
    assert list(sets.sets["s"].entries.values()) == [
        kept("10.0.0.1"),
        kept("10.0.0.2", comment="new"),
        Entry("10.0.0.8"),
        Entry("10.0.0.9", timeout=7),
    ]
    assert sets.sets["s"].references == 1


def test_what_is_held_loses_what_the_rebuilt_set_has_no_place_for() -> None:
    counted = Entry("10.0.0.1", timeout=5, comment="one", packets=3, bytes=4)
    sets = kernel(held(counted))
    plain = replace(HEADER, timeout=None, counters=False, comment=False)
    apply(plan_present(Wanted(plain, entries("10.0.0.1", "10.0.0.2"), True), held(counted)), sets)
    assert list(sets.sets["s"].entries.values()) == [Entry("10.0.0.1"), Entry("10.0.0.2")]


@pytest.mark.parametrize(
    ("entry", "differs"),
    [
        (Entry("10.0.0.2"), False),
        (Entry("10.0.0.2", timeout=9, packets=1, bytes=1), False),
        (Entry("10.0.0.2", timeout=0), True),
        (Entry("10.0.0.2", comment="two"), False),
        (Entry("10.0.0.2", comment=""), True),
        (Entry("10.0.0.3", timeout=9), True),
        (Entry("10.0.0.3", timeout=0), False),
        (Entry("10.0.0.1", comment=""), False),
        (Entry("10.0.0.1", nomatch=True), True),
    ],
)
def test_what_is_a_change_of_an_entry(entry: Entry, differs: bool) -> None:
    assert plan_present(Wanted(HEADER, entries(entry), False), OLD).changed == differs


def test_a_set_in_use_is_not_removed_and_its_entries_are() -> None:
    with pytest.raises(SetInUseError, match='set "s" cannot be removed: 1 rules or sets use it'):
        plan_absent(OLD, None)
    assert plan_absent(OLD, entries("10.0.0.1")).diff == {"before": "add s 10.0.0.1\n", "after": ""}
    assert not plan_absent(None, None).changed


def test_more_entries_than_fit_are_refused_before() -> None:
    narrow = replace(HEADER, maxelem=5)
    with pytest.raises(InvalidSetError, match="maxelem is 5: must be at least 6"):
        plan_present(Wanted(narrow, entries("10.0.0.8", "10.0.0.9"), False), OLD)
    assert plan_present(Wanted(narrow, entries("10.0.0.8", "10.0.0.9"), True), OLD).changed
    assert plan_present(Wanted(replace(narrow, forceadd=True), entries("10.0.0.8", "10.0.0.9"), False), OLD).changed


def test_a_leftover_goes_and_stays_gone() -> None:
    leftover = HeldSet(replace(HEADER, name=SCRATCH), 0, (), entries("10.0.0.1"))
    sets = FakeIpset(leftover)
    plan = plan_leftover(leftover)
    assert plan.diff["before"].splitlines()[1:] == [f"add {SCRATCH} 10.0.0.1"]
    (step,) = bind(plan.steps, sets)
    step.apply()
    step.undo()
    assert sets.sets == {}
    assert not plan_leftover(None).changed


def test_the_scratch_name_is_short_and_distinct() -> None:
    names = {scratch_name("x" * length) for length in range(1, 32)}
    assert len(names) == 31
    assert SCRATCH == "L4-TMP-043a718774c572bd"  # a later version finds what this one has left
    assert all(len(name) <= 31 for name in names)
