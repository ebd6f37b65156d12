# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the kernel's IPVS does not change with traffic, as one number: equal numbers, equal virtual services and destinations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter

from .netlink import each_attribute, messages

_OUTER = 8
"""Bytes of ``genlmsghdr`` and of the attribute around all others."""
_SERVICE_COUNTERS = frozenset([10, 12])
_DESTINATION_COUNTERS = frozenset([7, 8, 9, 10, 12])
"""``IPVS_SVC_ATTR_STATS*``; ``IPVS_DEST_ATTR_*_CONNS`` and ``IPVS_DEST_ATTR_STATS*``."""
_BYTES = 16


class _StablePart:
    """Cuts counters out of messages. Where they stand is found once for each length, since the kernel has one layout for each."""

    def __init__(self, counters: Collection[int], payloads: Callable[[bytes], Iterable[tuple[int, int]]]) -> None:
        """payloads: where those of messages begin and end in what is cut."""
        self._counters, self._payloads = counters, payloads
        self._known: dict[int, Callable[[bytes], Iterable[bytes]]] = {}

    def __call__(self, text: bytes) -> bytes:
        cut = self._known.get(len(text)) or self._learn(text)
        return b"".join(cut(text))

    def _learn(self, text: bytes) -> Callable[[bytes], Iterable[bytes]]:
        slices = [part for start, end in self._payloads(text) for part in self._stable(text[:end], start)]
        cut = itemgetter(slice(0, 0), slice(0, 0), *slices)
        self._known[len(text)] = cut
        return cut

    def _stable(self, text: bytes, start: int) -> list[slice]:
        slices: list[slice] = []
        at = start + _OUTER
        for kind, value in each_attribute(text[at:]):
            end = at + 4 + (len(value) + 3 & ~3)
            if kind not in self._counters:
                if slices and slices[-1].stop == at:
                    slices[-1] = slice(slices[-1].start, end)
                else:
                    slices.append(slice(at, end))
            at = end
        return slices


stable_service = _StablePart(_SERVICE_COUNTERS, lambda body: [(0, len(body))])
"""The attributes of a virtual service, of which the kernel finds it again."""
_stable_destinations = _StablePart(_DESTINATION_COUNTERS, messages)


def fingerprint(service: bytes, destinations: Iterable[bytes]) -> int:
    """Return the number of a virtual service. service: what `stable_service` gives; destinations: the kernel's datagrams."""
    text = b"".join([service, *map(_stable_destinations, destinations)])
    return int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest(), "big")


def total(numbers: Collection[int]) -> int:
    """Return the number of several virtual services, in whatever order."""
    return sum(numbers) % (1 << 8 * _BYTES)
