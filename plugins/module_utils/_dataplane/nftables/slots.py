# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the backends of a pool share the slots of a table from which a random number picks one. Pure.

Where the weights add up to few slots, each backend has as many slots as its weight. Else a table has twice as many slots as there
are backends, each backend has as many as its share fills completely, and a number that hits an empty slot is drawn again from the
next table, which shares what rounding has left. The last table has no empty slot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import NamedTuple

TABLES = 12
"""At most: each leaves less than half of the connections that it gets to the next."""
_EXACT = Fraction(1, 4096)
"""No backend's share of all connections differs by more from what its weight says."""
_SLOTS_PER_BACKEND = 8
"""Up to so many on average, one table with a slot for each unit of weight is no larger than several."""


class Slots(NamedTuple):
    """Which backend each slot leads to."""

    chain: str
    """The end of the name of the chains that draw: how many slots a table has, behind "weighted-" if there are several tables."""
    filled: tuple[tuple[int, int], ...]
    """The number of each slot, counted through all tables, and the index of its backend."""


@lru_cache(maxsize=4096)
def share_slots(weights: tuple[int, ...]) -> Slots:
    """Return the slots of backends with these weights, all above 0."""
    unit = gcd(*weights)
    shares = [weight // unit for weight in weights]
    if sum(shares) <= _SLOTS_PER_BACKEND * len(shares):
        owners = [index for index, share in enumerate(shares) for dummy in range(share)]
        return Slots(str(len(owners)), tuple(enumerate(owners)))
    size = 2 * len(shares)
    filled: list[tuple[int, int]] = []
    drawn = Fraction(1)
    for table in range(TABLES):
        served = {index for dummy, index in filled}
        counts, shares = _fill(shares, size)
        if table == TABLES - 1 or drawn * max(1, len(counts) - len(served)) <= size * _EXACT:
            counts = _complete(counts, shares, size, served)
        owners = [index for index, count in enumerate(counts) for dummy in range(count)]
        filled += [(table * size + slot, index) for slot, index in enumerate(owners)]
        drawn *= Fraction(size - len(owners), size)
        if not drawn:
            break
    return Slots(f"weighted-{size}", tuple(filled))


def _fill(shares: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Return how many slots each backend fills completely, and which shares are left to the next table."""
    whole = sum(shares)
    counts = [share * size // whole for share in shares]
    left = [share * size % whole for share in shares]
    unit = gcd(*left) or 1
    return counts, [share // unit for share in left]


def _complete(counts: Sequence[int], left: Sequence[int], size: int, served: Collection[int]) -> list[int]:
    """Return the counts of a table without empty slots: what is left goes by largest remainder, and nobody goes without."""
    full = [count or int(index not in served) for index, count in enumerate(counts)]
    by_remainder = sorted(range(len(left)), key=lambda index: (full[index] > counts[index], -left[index], index))
    for index in by_remainder[: max(0, size - sum(full))]:
        full[index] += 1
    while sum(full) > size:
        full[full.index(max(full))] -= 1
    return full


def slot_shares(chain: str, owners: dict[int, int]) -> dict[int, float]:
    """Return the share of each backend: the reverse of `share_slots`, by the owner of each slot."""
    size = int(chain.rpartition("-")[2])
    shares: dict[int, float] = {}
    left = 1.0
    for first in range(0, max(owners, default=-1) + 1, size):
        drawn = [owners[slot] for slot in range(first, first + size) if slot in owners]
        for owner in drawn:
            shares[owner] = shares.get(owner, 0.0) + left / size
        left *= 1 - len(drawn) / size
    return shares
