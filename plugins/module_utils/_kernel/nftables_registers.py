# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registers of a rule of nftables: what its expressions so far have loaded, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from .._objects.nftables import Bits, Jhash, Mapped, Numgen, Operand, type_of
from .._objects.nftables_types import TYPES

_COUNT = 16
"""Registers of four bytes."""


class Beginning(NamedTuple):
    """The first bytes of a field."""

    field: str
    size: int


Loaded = Union[str, Numgen, Jhash, Bits, bytes, Mapped, Beginning]


class NotOursError(Exception):
    """An expression, or a use of one, that this collection does not write."""


class Registers:
    """What is loaded, by the register in which it begins; each register is named by the kernel's number."""

    def __init__(self) -> None:
        self._held: dict[int, Loaded] = {}

    def __getitem__(self, number: int) -> Loaded:
        """Return what begins there; raise KeyError where nothing does."""
        return self._held[_index(number)]

    def load(self, number: int, loaded: Loaded) -> None:
        """Note what is loaded; what it overwrites, even in part, is lost (nft 1.0.6 does that to keys of 20 bytes)."""
        index = _index(number)
        end = index + _size(loaded)
        for other in [one for one, held in self._held.items() if one < end and index < one + _size(held)]:
            del self._held[other]
        self._held[index] = loaded

    def forget(self, number: int, count: int) -> None:
        """Drop what begins in so many registers."""
        for index in range(_index(number), _index(number) + count):
            self._held.pop(index, None)

    def key(self, number: int, until: int | None = None) -> tuple[Operand, ...]:
        """Return the fields that stand one behind the other from a register on, before another one. Raises NotOursError."""
        key: list[Operand] = []
        for part in self.data(number, until):
            if isinstance(part, bytes):
                raise NotOursError
            key.append(part)
        if not key:
            raise NotOursError
        return tuple(key)

    def data(self, number: int, until: int | None = None) -> Iterator[Operand | bytes]:
        """Yield the same with constants among the fields; there may be none."""
        index, end = _index(number), _COUNT if until is None else _index(until)
        while index < end and index in self._held:
            part = self._held[index]
            if isinstance(part, (Mapped, Beginning)):
                raise NotOursError
            yield part
            index += _size(part)


def words(operand: Operand) -> int:
    """Return how many registers a field takes."""
    return (TYPES[type_of(operand)].size + 3) // 4


def _index(number: int) -> int:
    """Return the index of a register of four bytes; the kernel names every fourth by the number of one of sixteen."""
    return number - 8 if number >= 8 else 4 * number - 4


def _size(loaded: Loaded) -> int:
    """Return how many registers are taken; of what a map gives the first alone."""
    if isinstance(loaded, (bytes, Beginning)):
        return ((len(loaded) if isinstance(loaded, bytes) else loaded.size) + 3) // 4
    return 1 if isinstance(loaded, Mapped) else words(loaded)
