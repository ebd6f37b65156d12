# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until no connection leads to some backends any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable, NamedTuple, Protocol

from ..._objects.conntrack import Flow
from .count import Destination, count_connections

_PAUSE = 1.0
"""Seconds between two looks; more where a look takes long, so that looking takes a fifth of the time at most."""
_PAUSE_PER_LOOK = 4


class Tracking(Protocol):
    """What is needed of connection tracking (`kernel.conntrack.Conntrack`)."""

    def flows(self, protocols: set[str]) -> list[Flow]:
        """The entries that have one of these protocols."""


class Left(NamedTuple):
    """counts: connections of each backend; seconds: for how long they were waited for."""

    counts: list[int]
    seconds: float


def wait_until_gone(
    backends: Sequence[Destination],
    tracking: Tracking,
    most_seconds: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Left:
    """What is left once nothing is left or the time is over. Raises ConntrackError."""
    protocols = {backend.protocol for backend in backends}
    began = clock()
    while True:
        looked = clock()
        counts = count_connections(tracking.flows(protocols), backends)
        now = clock()
        left = most_seconds - (now - began)
        if not any(counts) or left <= 0:
            return Left(counts, round(now - began, 1))
        sleep(min(left, max(_PAUSE, _PAUSE_PER_LOOK * (now - looked))))
