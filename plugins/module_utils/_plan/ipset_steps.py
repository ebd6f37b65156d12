# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to ipsets that can be taken back: what a plan consists of.

Each is done whole or not at all, by a facility that the caller hands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from .._objects.ipset import Entry, HeldSet, SetHeader, SetRefusedError
from . import transaction


class SetFacility(Protocol):
    """What the steps need of the kernel; `kernel.ipset.Ipset` is one, unit tests hand in a fake."""

    def read(self, name: str) -> HeldSet | None: ...

    def create(self, header: SetHeader) -> None: ...

    def destroy(self, name: str) -> None: ...

    def swap(self, name: str, other: str) -> None: ...

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None: ...

    def delete(self, header: SetHeader, elements: Sequence[str]) -> None: ...


class SetStep(Protocol):
    def apply(self, sets: SetFacility) -> None: ...

    def undo(self, sets: SetFacility) -> None: ...


@dataclass(frozen=True)
class Create:
    """An empty set."""

    header: SetHeader

    def apply(self, sets: SetFacility) -> None:
        sets.create(self.header)

    def undo(self, sets: SetFacility) -> None:
        sets.destroy(self.header.name)


@dataclass(frozen=True)
class Destroy:
    """The end of a set that holds these entries; None: of one that nobody wants back."""

    header: SetHeader
    entries: tuple[Entry, ...] | None

    def apply(self, sets: SetFacility) -> None:
        sets.destroy(self.header.name)

    def undo(self, sets: SetFacility) -> None:
        if self.entries is not None:
            sets.create(self.header)
            sets.add(self.header, self.entries)


@dataclass(frozen=True)
class Swap:
    """Two sets exchange what they hold."""

    name: str
    other: str

    def apply(self, sets: SetFacility) -> None:
        sets.swap(self.name, self.other)

    def undo(self, sets: SetFacility) -> None:
        sets.swap(self.name, self.other)


@dataclass(frozen=True)
class Add:
    """Entries that come, or that are written anew in place of those in ``replaced``."""

    header: SetHeader
    entries: tuple[Entry, ...]
    replaced: tuple[Entry, ...] = ()

    def apply(self, sets: SetFacility) -> None:
        try:
            sets.add(self.header, self.entries)
        except SetRefusedError as error:
            _take_back(Add(self.header, self.entries[: error.done], self.replaced), sets, error)
            raise

    def undo(self, sets: SetFacility) -> None:
        kept = {entry.element for entry in self.replaced}
        sets.delete(self.header, [entry.element for entry in self.entries if entry.element not in kept])
        sets.add(self.header, self.replaced)


@dataclass(frozen=True)
class Delete:
    """Entries that go."""

    header: SetHeader
    entries: tuple[Entry, ...]

    def apply(self, sets: SetFacility) -> None:
        try:
            sets.delete(self.header, [entry.element for entry in self.entries])
        except SetRefusedError as error:
            _take_back(Delete(self.header, self.entries[: error.done]), sets, error)
            raise

    def undo(self, sets: SetFacility) -> None:
        sets.add(self.header, self.entries)


def _take_back(done: SetStep, sets: SetFacility, error: SetRefusedError) -> None:
    """Undo the part of a step that was done before the kernel refused."""
    try:
        done.undo(sets)
    except SetRefusedError as failure:
        raise transaction.UndoFailed(f"{error}; and what was done before could not be put back: {failure}") from error


def bind(steps: Sequence[SetStep], sets: SetFacility) -> list[transaction.Step]:
    """The steps as parts of a transaction."""
    return [transaction.Step(partial(step.apply, sets), partial(step.undo, sets)) for step in steps]
