# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until no new connections come to some addresses, and until none are left."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Callable, NamedTuple

from ..._objects.conntrack import Flow
from .wait import Tracking

QUIET = 3.0
"""Seconds without a new connection, after which none is expected any more: more than a client takes to send its first packet again."""
_PAUSE = 0.5
"""Seconds between two looks; more where a look takes long, so that looking takes a fifth of the time at most."""
_PAUSE_PER_LOOK = 4
_PROTOCOLS = {"tcp", "udp", "sctp"}


class Traffic(NamedTuple):
    """The connections to addresses."""

    new: int
    """That began within the last QUIET seconds."""
    left: int
    """That are not over."""
    waited: float
    """Seconds."""


def wait_until_quiet(
    addresses: Collection[str],
    tracking: Tracking,
    most_seconds: float,
    until_none: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Traffic:
    """Return the traffic once no new connections come, or the time is over. until_none: nor are any left. Raises ConntrackError."""
    began = now = clock()
    begun: dict[bytes, float] = {one.key: began - QUIET for one in _to(addresses, tracking)}
    while True:
        looked = now
        flows = _to(addresses, tracking)
        now = clock()
        begun.update({one.key: now for one in flows if one.key not in begun})
        new, left = sum(now - at < QUIET for at in begun.values()), sum(one.live for one in flows)
        waited = now - began
        if waited >= most_seconds or (waited >= QUIET and not new and not (until_none and left)):
            return Traffic(new, left, round(waited, 1))
        sleep(min(most_seconds - waited, max(_PAUSE, _PAUSE_PER_LOOK * (now - looked))))
        now = clock()


def _to(addresses: Collection[str], tracking: Tracking) -> list[Flow]:
    return [one for one in tracking.flows(_PROTOCOLS) if one.destination[0] in addresses]
