# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ipsets without a kernel: the interface of `kernel.ipset.Ipset` over sets in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    Entry,
    HeldSet,
    SetHeader,
    SetRefusedError,
)

Item = TypeVar("Item")


class RefusedError(SetRefusedError):
    """The fake was told to fail here."""

    def __init__(self, call: str, done: int) -> None:
        super().__init__(call)
        self.done = done


class FakeIpset:
    """sets: by name. fail_at: the change that fails, counted from 1, after half of its entries. calls: changes in order."""

    def __init__(self, *held: HeldSet) -> None:
        self.sets = {one.header.name: one for one in held}
        self.calls: list[str] = []
        self.fail_at = 0
        self.refused: set[object] = set()

    def read(self, name: str) -> HeldSet | None:
        return self.sets.get(name)

    def create(self, header: SetHeader) -> None:
        self._call(f"create {header.name}")
        assert header.name not in self.sets
        self.sets[header.name] = HeldSet(header, 0, (), {})

    def destroy(self, name: str) -> None:
        self._call(f"destroy {name}")
        assert not self.sets.pop(name).references

    def swap(self, name: str, other: str) -> None:
        """As in the kernel, references stay with the name."""
        self._call(f"swap {name} {other}")
        one, two = self.sets[name], self.sets[other]
        self.sets[name] = two._replace(header=replace(two.header, name=name), references=one.references)
        self.sets[other] = one._replace(header=replace(one.header, name=other), references=two.references)

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None:
        for entry in self._until_refused(f"add {header.name}", entries):
            self.sets[header.name].entries[entry.element] = entry

    def delete(self, header: SetHeader, elements: Sequence[str]) -> None:
        for element in self._until_refused(f"delete {header.name}", elements):
            self.sets[header.name].entries.pop(element, None)

    def _until_refused(self, call: str, items: Sequence[Item]) -> Iterator[Item]:
        """Half of the items if this call fails; from then on the item after them is refused again, as the kernel would."""
        assert not self.refused & set(items)
        half = len(items) // 2
        yield from items[:half]
        try:
            self._call(call, half)
        except RefusedError:
            self.refused.update(items[half : half + 1])
            raise
        yield from items[half:]

    def _call(self, call: str, done: int = 0) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            raise RefusedError(call, done)
