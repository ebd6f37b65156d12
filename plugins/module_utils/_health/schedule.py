# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When each check is made. Pure: times are the caller's, in seconds."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import Callable

from .checks import Probe

_JITTER = 0.1
"""The part of an interval by which a check may come earlier, so that checks of a node, and of a fleet, drift apart."""


class Schedule:
    """Each check has one next time, or is under way."""

    def __init__(self, random: Callable[[], float]) -> None:
        """random: returns a number from 0 to 1."""
        self._random = random
        self._times: dict[Probe, float | None] = {}
        self._heap: list[tuple[float, Probe]] = []

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, probe: Probe) -> bool:
        return probe in self._times

    def keep(self, probes: Collection[Probe], now: float) -> None:
        """Make these checks and no others: new ones begin spread over their interval, the others go on as they were."""
        wanted = set(probes)
        for probe in self._times.keys() - wanted:
            del self._times[probe]
        for probe in sorted(wanted - self._times.keys()):
            self._set(probe, now + probe.interval * self._random())

    def due(self, now: float, most: int) -> list[Probe]:
        """Return the checks whose time has come, the earliest first and no more than asked for; they are under way from then on."""
        found: list[Probe] = []
        while len(found) < most and self._next() <= now:
            dummy, probe = heapq.heappop(self._heap)
            self._times[probe] = None
            found.append(probe)
        return found

    def done(self, probe: Probe, started: float, now: float) -> None:
        """Set when a check is made again: an interval after its last start, but not before its end."""
        if probe in self._times:
            again = started + probe.interval * (1 - _JITTER * self._random())
            self._set(probe, max(again, now))

    def wait(self, now: float) -> float:
        """Return the seconds until a check is due."""
        return max(0.0, self._next() - now)

    def _next(self) -> float:
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # of a check that is gone, or has another time
        return self._heap[0][0] if self._heap else float("inf")

    def _set(self, probe: Probe, when: float) -> None:
        self._times[probe] = when
        heapq.heappush(self._heap, (when, probe))
