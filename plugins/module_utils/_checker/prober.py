# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All checks that are under way: one selector, no threads."""

from __future__ import annotations

import heapq
import select
import time
from itertools import count
from typing import Callable, NamedTuple

from .._health.checks import Probe
from .attempt import Attempt, OwnFault, attempt, open_socket

TIMED_OUT = "timed out"
BEAT = 0.02
"""Seconds."""
_GAP = 0.5
"""Seconds; what a loop is late by more than this is not counted."""


class Clock:
    """Seconds that the checker has been awake: a stopped or overloaded node, or a long run, must not let every check time out."""

    def __init__(self) -> None:
        self._last, self._skipped = time.monotonic(), 0.0

    def now(self) -> float:
        return time.monotonic() - self._skipped

    def tick(self, waited: float) -> None:
        """Take note of a turn of the loop that was to wait so many seconds."""
        now = time.monotonic()
        late = now - self._last - waited
        if late > _GAP:
            self._skipped += late
        self._last = now


class Result(NamedTuple):
    """How a check has ended."""

    probe: Probe
    started: float
    error: str | None
    """Why it failed, None where it did not."""
    counts: bool = True
    """Whether it says anything of the backend."""


class _Running(NamedTuple):
    """A check under way. descriptor: of its connection, which another check may have later."""

    descriptor: int
    probe: Probe
    started: float
    attempt: Attempt


class Prober:
    """Makes checks, up to a number at the same time.

    Most are answered within a beat: only those that are not are watched by epoll(7), and have a deadline.
    """

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock, self._most = clock, most
        self._epoll = select.epoll()
        self._new: list[_Running] = []
        self._watched: dict[int, _Running] = {}  # by descriptor
        self._deadlines: list[tuple[float, int, _Running]] = []
        self._numbers = count()

    @property
    def room(self) -> int:
        """How many more checks can be made now."""
        return self._most - len(self._new) - len(self._watched)

    def start(self, probe: Probe) -> Result | None:
        """Begin a check; its result where it has one already. Raises OwnFault."""
        connection = open_socket(probe)
        descriptor, started = connection.fileno(), self._clock.now()
        made = attempt(probe, connection)
        try:
            next(made)
        except StopIteration as stop:
            return Result(probe, started, stop.value)
        self._new.append(_Running(descriptor, probe, started, made))
        return None

    def poll(self, wait: float) -> list[Result]:
        """Wait so many seconds at most, and return what has ended. What has answered is judged before what is late.

        While checks are under way it looks at their sockets once in a beat: to be woken by each costs several times as much.
        """
        if self._new or self._watched:
            wait = min(wait, BEAT)
        time.sleep(wait)
        self._clock.tick(wait)
        new, self._new = self._new, []
        results = [self._advance(one, self._watch) for one in new]
        if self._watched:
            ready = self._epoll.poll(0, self._most)
            results += [self._advance(self._watched[descriptor], self._watch_on) for descriptor, dummy in ready]
        return [one for one in results if one] + self._late()

    def close(self) -> None:
        """End all checks without a result."""
        for one in [*self._new, *self._watched.values()]:
            one.attempt.close()
        self._epoll.close()

    def _advance(self, one: _Running, wait_for: Callable[[_Running, int], None]) -> Result | None:
        """Go on with a check, whether or not what it waits for has come; its result where it has ended."""
        try:
            events = next(one.attempt)
        except StopIteration as stop:
            self._watched.pop(one.descriptor, None)
            return Result(one.probe, one.started, stop.value)
        except OwnFault:
            self._watched.pop(one.descriptor, None)
            return Result(one.probe, one.started, None, counts=False)
        wait_for(one, events)
        return None

    def _watch(self, one: _Running, events: int) -> None:
        self._watched[one.descriptor] = one
        self._epoll.register(one.descriptor, events)
        heapq.heappush(self._deadlines, (one.started + one.probe.timeout, next(self._numbers), one))

    def _watch_on(self, one: _Running, events: int) -> None:
        self._epoll.modify(one.descriptor, events)

    def _late(self) -> list[Result]:
        """End the checks whose time is over. A socket that is closed has left the selector by itself."""
        now, found = self._clock.now(), []
        while self._deadlines and self._deadlines[0][0] <= now:
            one = heapq.heappop(self._deadlines)[2]
            if self._watched.get(one.descriptor) is one:
                del self._watched[one.descriptor]
                one.attempt.close()
                found.append(Result(one.probe, one.started, TIMED_OUT))
        return found
