# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All checks that are under way: one selector, no threads."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from selectors import DefaultSelector
from typing import NamedTuple

from .._health.checks import Probe
from .attempt import Attempt, OwnFault, attempt, open_socket

TIMED_OUT = "timed out"
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
        self._selector = DefaultSelector()
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
        one = _Running(next(self._numbers), probe, self._clock.now(), attempt(probe, connection))
        try:
            events = next(one.attempt)
        except StopIteration as stop:
            return Result(probe, one.started, stop.value)
        self._selector.register(descriptor, events)
        self._running[descriptor] = one
        heapq.heappush(self._deadlines, (one.started + probe.timeout, one.number, descriptor))
        return None

    def poll(self, wait: float) -> Iterator[Result]:
        """Wait so many seconds at most, and return what has ended. What has answered is judged before what is late."""
        if self._deadlines:
            wait = max(0.0, min(wait, self._deadlines[0][0] - self._clock.now()))
        ready = self._selector.select(wait)
        self._clock.tick(wait)
        for key, dummy in ready:
            yield from self._advance(key.fd)
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
        self._selector.close()

    def _advance(self, descriptor: int) -> Iterator[Result]:
        one = self._running[descriptor]
        before = self._selector.get_key(descriptor).events
        try:
            events = next(one.attempt)
        except StopIteration as stop:
            self._forget(descriptor)
            yield Result(one.probe, one.started, stop.value)
        except OwnFault:
            self._forget(descriptor)
            yield Result(one.probe, one.started, None, counts=False)
        else:
            if events != before:
                self._selector.modify(descriptor, events)

    def _end(self, descriptor: int) -> None:
        one = self._running[descriptor]
        self._forget(descriptor)
        one.attempt.close()

    def _forget(self, descriptor: int) -> None:
        """The selector knows a descriptor by its number, also one that is closed by now."""
        del self._running[descriptor]
        with suppress(KeyError):
            self._selector.unregister(descriptor)
