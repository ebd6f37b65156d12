# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the kernel's IPVS does not change with traffic, as one number: equal numbers, equal virtual services and destinations."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from .netlink import each_attribute

_OUTER = 8
"""Bytes of ``genlmsghdr`` and of the attribute around all others."""
_SERVICE_COUNTERS = frozenset([10, 12])
_DESTINATION_COUNTERS = frozenset([7, 8, 9, 10, 12])
"""``IPVS_SVC_ATTR_STATS*``; ``IPVS_DEST_ATTR_*_CONNS`` and ``IPVS_DEST_ATTR_STATS*``."""
_BYTES = 16


class _StablePart:
    """Cuts counters out of messages. Where they stand is found once for each length."""

    def __init__(self, counters: Collection[int]) -> None:
        self._counters = counters
        self._known: dict[int, list[slice]] = {}

    def __call__(self, body: bytes) -> bytes:
        slices = self._known.get(len(body)) or self._learn(body)
        return b"".join([body[part] for part in slices])

    def _learn(self, body: bytes) -> list[slice]:
        slices: list[slice] = []
        at = _OUTER
        for kind, value in each_attribute(body[_OUTER:]):
            end = at + 4 + (len(value) + 3 & ~3)
            if kind not in self._counters:
                if slices and slices[-1].stop == at:
                    slices[-1] = slice(slices[-1].start, end)
                else:
                    slices.append(slice(at, end))
            at = end
        self._known[len(body)] = slices
        return slices


stable_service = _StablePart(_SERVICE_COUNTERS)
"""The attributes of a virtual service, of which the kernel finds it again."""
_stable_destination = _StablePart(_DESTINATION_COUNTERS)


def fingerprint(service: bytes, destinations: Sequence[bytes]) -> int:
    """Return the number of a virtual service. service: what `stable_service` gives; destinations: the kernel's messages."""
    text = b"".join([service, *map(_stable_destination, destinations)])
    return int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest(), "big")


def total(numbers: Collection[int]) -> int:
    """Return the number of several virtual services, in whatever order."""
    return sum(numbers) % (1 << 8 * _BYTES)
