# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All checks that are under way: one selector, no threads."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

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
    """A check under way. number: tells it from another that has the same descriptor later."""

    number: int
    probe: Probe
    started: float
    attempt: Attempt


class Prober:
    """Makes checks, up to a number at the same time."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock, self._most = clock, most
        self._epoll = select.epoll()
        self._running: dict[int, _Running] = {}  # by descriptor
        self._deadlines: list[tuple[float, int, int]] = []  # time, number, descriptor
        self._numbers = count(1)

    @property
    def room(self) -> int:
        """How many more checks can be made now."""
        return self._most - len(self._running)

    def start(self, probe: Probe) -> Result | None:
        """Begin a check; its result where it has one already. Raises OwnFault."""
        connection = open_socket(probe)
        descriptor = connection.fileno()
        started = self._clock.now()
        made = attempt(probe, connection)
        try:
            events = next(made)
        except StopIteration as stop:
            return Result(probe, started, stop.value)
        one = self._running[descriptor] = _Running(next(self._numbers), probe, started, made)
        self._epoll.register(descriptor, events)
        heapq.heappush(self._deadlines, (started + probe.timeout, one.number, descriptor))
        return None

    def poll(self, wait: float) -> Iterator[Result]:
        """Wait so many seconds at most, and return what has ended. What has answered is judged before what is late.

        While checks are under way it looks at their sockets once in a beat: to be woken by each costs several times as much.
        """
        if self._running:
            wait = min(wait, BEAT)
        time.sleep(wait)
        self._clock.tick(wait)
        for descriptor, dummy in self._epoll.poll(0, self._most):
            yield from self._advance(descriptor)
        now = self._clock.now()
        while self._deadlines and self._deadlines[0][0] <= now:
            _when, number, descriptor = heapq.heappop(self._deadlines)
            one = self._running.get(descriptor)
            if one and one.number == number:
                self._end(descriptor)
                yield Result(one.probe, one.started, TIMED_OUT)

    def close(self) -> None:
        """End all checks without a result."""
        for descriptor in list(self._running):
            self._end(descriptor)
        self._epoll.close()

    def _advance(self, descriptor: int) -> Iterator[Result]:
        one = self._running[descriptor]
        try:
            events = next(one.attempt)
        except StopIteration as stop:
            del self._running[descriptor]
            yield Result(one.probe, one.started, stop.value)
        except OwnFault:
            del self._running[descriptor]
            yield Result(one.probe, one.started, None, counts=False)
        else:
            self._epoll.modify(descriptor, events)

    def _end(self, descriptor: int) -> None:
        """End a check. A socket that is closed has left the selector by itself."""
        self._running.pop(descriptor).attempt.close()
