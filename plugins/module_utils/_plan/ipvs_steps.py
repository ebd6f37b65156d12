# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The phases of a plan for virtual services as steps: each whole or not at all, and the wait for connections between them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Callable, Protocol

from .._objects.conntrack import Endpoint
from .._objects.ipvs import IpvsChange, IpvsRefusedError, ServiceKey
from .ipvs import VirtualServicePlan
from .transaction import Step, UndoFailed

_POLL_SECONDS = 0.5
_SETTLING_POLL = 0.1
_IN_FLIGHT = 0.3
"""Seconds that a packet may be on its way through the node, its first rules passed and IPVS not reached."""
_SETTLED_AFTER = 2.0
"""Seconds. A SYN that is lost, or its answer, is sent again after one."""
_LONGEST_SETTLING = 8.0


class VirtualServices(Protocol):
    """What is needed of IPVS (`kernel.ipvs.Ipvs`)."""

    def apply(self, changes: Sequence[IpvsChange]) -> None: ...

    def open_connections(self) -> int: ...

    def connections(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[Endpoint, tuple[int, int]]]: ...


def virtual_step(plan: VirtualServicePlan, changes: Sequence[IpvsChange], ipvs: VirtualServices) -> Step:
    """All of these changes of one phase, or none."""

    def apply() -> None:
        try:
            ipvs.apply(changes)
        except IpvsRefusedError as error:
            _take_back(error)
            raise

    def _take_back(error: IpvsRefusedError) -> None:
        try:
            ipvs.apply(plan.undo(error.made))
        except IpvsRefusedError as failure:
            raise UndoFailed(f"{error}; and what was done before could not be put back: {failure}") from error

    return Step(apply, lambda: ipvs.apply(plan.undo(changes)))


def wait_step(
    going: Collection[tuple[ServiceKey, Endpoint]],
    ipvs: VirtualServices,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Step:
    """Until the active connections of these destinations have ended, at most so many seconds."""

    def wait() -> None:
        until = now() + seconds
        while now() < until and _any_active(going, ipvs):
            sleep(_POLL_SECONDS)

    return Step(wait, lambda: None)


def settle_step(
    ipvs: VirtualServices,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Step:
    """Until connections that are just being made or served are through: as long as their number falls, and a moment more."""

    def wait() -> None:
        started = fell = now()
        least = ipvs.open_connections() + 1
        while now() - started < _LONGEST_SETTLING and now() - fell < _SETTLED_AFTER:
            count = ipvs.open_connections()
            if count < least:
                least, fell = count, now()
            if not count and now() - started >= _IN_FLIGHT:
                return
            sleep(_SETTLING_POLL)

    return Step(wait, lambda: None)


def _any_active(going: Collection[tuple[ServiceKey, Endpoint]], ipvs: VirtualServices) -> bool:
    counts = ipvs.connections({key for key, dummy in going})
    return any(counts[key].get(endpoint, (0, 0))[0] for key, endpoint in going)


def virtual_steps(plan: VirtualServicePlan, ipvs: VirtualServices, drain_timeout: float) -> Sequence[Step]:
    """What comes, what takes nothing new any more and is waited for, what goes."""
    steps = [virtual_step(plan, plan.additions, ipvs)]
    if drain_timeout and plan.draining:
        steps += [virtual_step(plan, plan.drain, ipvs), wait_step(plan.draining, ipvs, drain_timeout)]
    return [*steps, virtual_step(plan, plan.removals, ipvs)]
