# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How rules that ask the dice share new connections among backends by weight. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ..._model import addresses as ip
from ..._model.service import Backend

LONGEST_LIST = 16
"""More backends than these are divided into groups: first the group is chosen by chance, then one in it."""
_GROUPS = 8
_STATISTIC_BITS = 31
"""The kernel keeps a chance as an integer of 31 bits (``xt_statistic``)."""


def divide(pool: Sequence[Backend], depth: int) -> list[tuple[str, list[Backend]]]:
    """The groups of a pool at this depth of a tree: each backend alone when they are few, else up to 8 groups with a digit.

    The group of a backend goes by a hash of its endpoint, so that one that comes or goes moves no other.
    """
    if len(pool) <= LONGEST_LIST:
        return [("", [backend]) for backend in pool]
    groups: dict[str, list[Backend]] = {}
    for backend in pool:
        digits = hashlib.sha256(ip.endpoint(backend.address, backend.port).encode()).digest()
        groups.setdefault(str(digits[depth] % _GROUPS), []).append(backend)
    return sorted(groups.items())


def groups_of(pool: Sequence[Backend], path: str = "") -> Iterator[tuple[Backend, str]]:
    """Yield each backend with each of the groups below this one that it is in."""
    for digit, part in divide(pool, len(path)):
        if len(part) > 1:
            for backend in part:
                yield backend, path + digit
            yield from groups_of(part, path + digit)


@lru_cache(maxsize=1024)
def matches(weights: tuple[int, ...]) -> tuple[str, ...]:
    """A match for each rule in turn: each is asked only when those before it declined; the last always takes."""
    left = sum(weights)
    found = []
    for weight in weights:
        chance = round(weight * (1 << _STATISTIC_BITS) / left)
        always = weight == left
        probability = f"{chance / (1 << _STATISTIC_BITS):.11f}"
        found.append("" if always else "-m statistic --mode random --probability " + probability)
        left -= weight
    return tuple(found)
