# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual services from one state to another: exactly, in an order that never leaves one bare, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    Destination,
    HeldService,
    ServiceKey,
    SetDestination,
    VirtualService,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipvs import plan_virtual_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipvs_steps import (
    settle_step,
    virtual_steps,
    wait_step,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import run
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipvs import FakeIpvs, RefusedError

KEYS = (
    ServiceKey("ipv4", "tcp", "192.0.2.1", 80, 0),
    ServiceKey("ipv4", "udp", "192.0.2.1", 80, 0),
    ServiceKey("ipv6", "", "", 0, 7),
)


def destination(number: int, weight: int = 1, **settings: Any) -> Destination:
    return Destination(f"10.0.0.{number}", 8080, "masquerade", weight, **settings)


def held(key: ServiceKey, *destinations: Destination, scheduler: str = "rr", timeout: int = 0) -> HeldService:
    length = 32 if key.family == "ipv4" else 128
    service = VirtualService(key, scheduler, (), timeout, length, False)
    return HeldService(service, {(one.address, one.port): one for one in destinations})


destinations = st.builds(destination, st.integers(1, 4), st.integers(0, 2), upper_threshold=st.integers(0, 1))
states = st.fixed_dictionaries(
    {},
    optional={
        key: st.builds(
            lambda found, scheduler, key=key: held(key, *found, scheduler=scheduler),
            st.lists(destinations, max_size=4),
            st.sampled_from(["rr", "wrr"]),
        )
        for key in KEYS
    },
)


def test_the_lines_are_all_that_go_and_come() -> None:
    tcp, udp, mark = KEYS
    plan = plan_virtual_services(
        {tcp: held(tcp, destination(2)), mark: held(mark, destination(3))},
        {
            tcp: held(tcp, destination(1)),
            udp: held(udp, destination(1)),
            mark: held(mark, destination(3), scheduler="wrr"),
        },
    )
    assert plan.before.splitlines() == [
        "-A -f 7 -6 -s wrr",
        "-A -u 192.0.2.1:80 -s rr",
        "-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 1",
        "-a -u 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 1",
    ]
    assert plan.after.splitlines() == ["-A -f 7 -6 -s rr", "-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 1"]


@given(before=states, after=states, drain=st.sampled_from([0, 5]))
def test_a_plan_leads_to_what_is_wanted(before: Any, after: Any, drain: int) -> None:
    plan = plan_virtual_services(after, before)
    ipvs = FakeIpvs(before)
    run(virtual_steps(plan, ipvs, drain))
    assert ipvs.held == after
    assert plan.changed == (before != after) == bool(ipvs.changes)
    assert bool(plan.before or plan.after) == plan.changed
    again = plan_virtual_services(after, ipvs.services())
    assert (again.changed, again.before, again.after) == (False, "", "")


@given(before=states, after=states)
@example(
    before={KEYS[0]: held(KEYS[0], destination(1, 1), destination(2, 0))},
    after={KEYS[0]: held(KEYS[0], destination(1, 0), destination(2, 1))},
)
def test_a_virtual_service_that_stays_is_never_without_a_destination_that_takes_connections(
    before: Any, after: Any
) -> None:
    ipvs = FakeIpvs(before)
    run(virtual_steps(plan_virtual_services(after, before), ipvs, 5))
    for key in set(before) & set(after):
        if usable(before[key]) and usable(after[key]):
            assert all(usable(state[key]) for state in ipvs.states)


def usable(one: HeldService) -> bool:
    return any(destination.weight for destination in one.destinations.values())


@given(before=states, after=states, drain=st.sampled_from([0, 5]), at=st.integers(0, 20))
def test_a_refused_change_leaves_what_was_there(before: Any, after: Any, drain: int, at: int) -> None:
    """Also what the kernel did behind it is taken back."""
    plan = plan_virtual_services(after, before)
    ipvs = FakeIpvs(before, refuse=at)
    try:
        run(virtual_steps(plan, ipvs, drain))
    except RefusedError:
        assert ipvs.held == before
    else:
        assert ipvs.held == after


def test_only_lines_that_differ_are_shown() -> None:
    key = KEYS[0]
    before = {key: held(key, destination(1), destination(2)), KEYS[1]: held(KEYS[1], destination(1))}
    after = {key: held(key, destination(2, 5), destination(3), scheduler="wrr"), KEYS[1]: before[KEYS[1]]}
    plan = plan_virtual_services(after, before)
    assert plan.before.splitlines() == [
        "-A -t 192.0.2.1:80 -s rr",
        "-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 1",
        "-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 1",
    ]
    assert plan.after.splitlines() == [
        "-A -t 192.0.2.1:80 -s wrr",
        "-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 5",
        "-a -t 192.0.2.1:80 -r 10.0.0.3:8080 -m -w 1",
    ]


def test_what_drains_has_weight_0_and_udp_does_not_drain() -> None:
    before = {key: held(key, destination(1), destination(2, 0), destination(3)) for key in KEYS}
    after = {KEYS[0]: held(KEYS[0], destination(3)), KEYS[1]: held(KEYS[1], destination(3))}
    plan = plan_virtual_services(after, before)
    assert {(change.key, change.destination) for change in plan.drain if change.destination.address == "10.0.0.1"} == {
        (KEYS[0], destination(1, 0)),
        (KEYS[2], destination(1, 0)),
    }
    assert all(isinstance(change, SetDestination) and not change.destination.weight for change in plan.drain)
    assert {(key, address) for key, (address, dummy) in plan.draining} == {
        (KEYS[0], "10.0.0.1"),
        (KEYS[0], "10.0.0.2"),
        (KEYS[2], "10.0.0.1"),
        (KEYS[2], "10.0.0.2"),
        (KEYS[2], "10.0.0.3"),
    }


@pytest.mark.parametrize(("ends_at", "waited"), [(3.0, 3.0), (99.0, 10.0), (0.0, 0.0)])
def test_connections_are_waited_for_until_they_end_or_the_time_is_over(ends_at: float, waited: float) -> None:
    clock = [0.0]
    ipvs = FakeIpvs({KEYS[0]: held(KEYS[0], destination(1, 0))}, active=1 if ends_at else 0)

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        ipvs.active = int(clock[0] < ends_at)

    going = [(KEYS[0], ("10.0.0.1", 8080))]
    wait_step(going, ipvs, 10.0, sleep, lambda: clock[0]).apply()
    assert clock[0] == waited


@pytest.mark.parametrize(
    ("counts", "waited"),
    [
        ([0], 0.3),
        ([3, 2, 1, 0], 0.3),
        ([3, 2, 2, 2, 1, 0], 0.5),
        ([5], 2.0),
        ([9, 8, 7, 6, 5], 2.4),
        (range(99, 0, -1), 8.0),
    ],
)
def test_what_is_under_way_is_waited_for_as_long_as_it_gets_less(counts: Sequence[int], waited: float) -> None:
    left, clock = list(counts), [0.0]

    class Counting(FakeIpvs):
        def open_connections(self) -> int:
            return left.pop(0) if len(left) > 1 else left[0]

    def sleep(seconds: float) -> None:
        clock[0] = round(clock[0] + seconds, 3)

    step = settle_step(Counting({}), sleep, lambda: clock[0])
    step.apply()
    step.undo()
    assert clock[0] == pytest.approx(waited, abs=0.11)
