# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between an ipset that is wanted and the one that the kernel holds. Pure.

The text of a plan has what changes, as ``ipset save`` writes it, but for what changes by itself between two readings: the
seconds that an entry has left, and counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .._objects.ipset import Entries, Entry, HeldSet, InvalidSetError, SetHeader, Wanted, add_line, create_line
from .ipset_steps import Add, Create, Delete, Destroy, SetStep, Swap


class SetInUseError(Exception):
    """A set that is to go is in use. references: by how many rules and sets."""

    def __init__(self, name: str, references: int) -> None:
        super().__init__(f'set "{name}" cannot be removed: {references} rules or sets use it')
        self.name, self.references = name, references


@dataclass
class SetPlan:
    """What to do in order, and the lines that differ."""

    steps: list[SetStep] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.steps)

    @property
    def diff(self) -> dict[str, str]:
        return {"before": _text(self.before), "after": _text(self.after)}


def _text(lines: list[str]) -> str:
    """Sorted, with the lines that create sets before those that fill them."""
    ordered = sorted(lines, key=lambda line: (not line.startswith("create "), line))
    return "".join(line + "\n" for line in ordered)


def scratch_name(name: str) -> str:
    """The name of the set in which the new contents of another are prepared, the same in every run."""
    return f"L4-TMP-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def plan_leftover(leftover: HeldSet | None) -> SetPlan:
    """What a run that was killed left behind goes."""
    if leftover is None:
        return SetPlan()
    lines = [create_line(leftover.header)]
    lines += [add_line(leftover.header.name, _shown(entry)) for entry in leftover.entries.values()]
    return SetPlan([Destroy(leftover.header, None)], lines)


def plan_absent(held: HeldSet | None, entries: Entries | None) -> SetPlan:
    """These entries go, or the whole set if None. Raises SetInUseError."""
    if held is None:
        return SetPlan()
    name = held.header.name
    if entries is not None:
        going = tuple([entry for element, entry in held.entries.items() if element in entries])
        return SetPlan(
            [Delete(held.header, going)] if going else [], [add_line(name, _shown(entry)) for entry in going]
        )
    if held.references:
        raise SetInUseError(name, held.references)
    whole = tuple(held.entries.values())
    lines = [create_line(held.header)] + [add_line(name, _shown(entry)) for entry in whole]
    return SetPlan([Destroy(held.header, whole)], lines)


def plan_present(wanted: Wanted, held: HeldSet | None) -> SetPlan:
    """The set is as wanted. Raises InvalidSetError when it cannot hold what is wanted."""
    header = wanted.header
    if held is None:
        _refuse_overfull(header, len(wanted.entries))
        return _creation(header, tuple(wanted.entries.values()))
    change = _Change.between(wanted, held)
    _refuse_overfull(header, len(change.kept) + len(change.replaced) + len(change.added))
    _refuse_outside(header, change.kept)
    rebuilt = header != held.header
    if not (rebuilt or change.size):
        return SetPlan()
    atomic = rebuilt or (wanted.exclusive and change.size > 1)
    steps = _rebuild(header, held, change) if atomic else _update(header, held, change)
    before, after = change.lines(header, held, rebuilt)
    return SetPlan(steps, before, after)


@dataclass
class _Change:
    """Entries of a set by what becomes of them. replaced, kept: as they will be, by element; removed: as they were."""

    wanted: Entries
    added: Entries
    replaced: Entries
    removed: Entries
    kept: Entries

    @classmethod
    def between(cls, wanted: Wanted, held: HeldSet) -> _Change:
        change = cls(wanted.entries, {}, {}, {}, {})
        for element, entry in wanted.entries.items():
            have = held.entries.get(element)
            if have is None:
                change.added[element] = entry
            elif _differs(entry, have):
                change.replaced[element] = _merged(entry, have)
        for element, have in held.entries.items():
            if element not in wanted.entries and wanted.exclusive:
                change.removed[element] = have
            elif element not in change.replaced:
                change.kept[element] = have
        return change

    @property
    def size(self) -> int:
        return len(self.added) + len(self.replaced) + len(self.removed)

    def lines(self, header: SetHeader, held: HeldSet, rebuilt: bool) -> tuple[list[str], list[str]]:
        name = header.name
        before = [create_line(held.header)] if rebuilt else []
        after = [create_line(header)] if rebuilt else []
        before += [add_line(name, _shown(entry)) for entry in self.removed.values()]
        after += [add_line(name, _with_timeout(entry, header)) for entry in self.added.values()]
        for element, entry in self.replaced.items():
            have = held.entries[element]
            before.append(add_line(name, _shown(have)))
            shown = _shown(_fitted(entry, header))
            if entry.timeout != have.timeout:
                shown = shown._replace(timeout=entry.timeout)
            after.append(add_line(name, shown))
        for entry in self.kept.values() if rebuilt else ():
            old, new = add_line(name, _shown(entry)), add_line(name, _shown(_fitted(entry, header)))
            if old != new:
                before.append(old)
                after.append(new)
        return before, after


def _differs(entry: Entry, have: Entry) -> bool:
    """Whether the entry that is held is other than wanted. What is not given does not count, nor how long it still stays."""
    if entry.nomatch != have.nomatch:
        return True
    if entry.comment is not None and entry.comment != (have.comment or ""):
        return True
    return entry.timeout is not None and bool(entry.timeout) != bool(have.timeout)


def _merged(entry: Entry, have: Entry) -> Entry:
    """The entry that is held with what is given; the time that it has left and its counters go on."""
    timeout = have.timeout
    if entry.timeout is not None and bool(entry.timeout) != bool(have.timeout):
        timeout = entry.timeout
    return have._replace(
        nomatch=entry.nomatch, timeout=timeout, comment=have.comment if entry.comment is None else entry.comment
    )


def _fitted(entry: Entry, header: SetHeader) -> Entry:
    """An entry that is held, as it will be in a set with this header; where it had no timeout it stays for ever."""
    return entry._replace(
        timeout=None if header.timeout is None else entry.timeout or 0,
        comment=entry.comment if header.comment else None,
        packets=entry.packets if header.counters else None,
        bytes=entry.bytes if header.counters else None,
    )


def _shown(entry: Entry) -> Entry:
    """An entry that is held, without what changes by itself."""
    return entry._replace(timeout=None if entry.timeout else entry.timeout, packets=None, bytes=None)


def _with_timeout(entry: Entry, header: SetHeader) -> Entry:
    """An entry that is added, with the time for which it will be there."""
    return entry if entry.timeout is not None else entry._replace(timeout=header.timeout)


def _creation(header: SetHeader, entries: tuple[Entry, ...]) -> SetPlan:
    steps: list[SetStep] = [Create(header)]
    if entries:
        steps.append(Add(header, entries))
    lines = [create_line(header)] + [add_line(header.name, _with_timeout(entry, header)) for entry in entries]
    return SetPlan(steps, [], lines)


def _update(header: SetHeader, held: HeldSet, change: _Change) -> list[SetStep]:
    steps: list[SetStep] = []
    if change.removed:
        steps.append(Delete(header, tuple(change.removed.values())))
    coming = tuple(change.replaced.values()) + tuple(change.added.values())
    if coming:
        steps.append(Add(header, coming, tuple([held.entries[element] for element in change.replaced])))
    return steps


def _rebuild(header: SetHeader, held: HeldSet, change: _Change) -> list[SetStep]:
    """The set is prepared under another name, in the order that it had, and takes the place of the old one at once."""
    scratch = replace(header, name=scratch_name(header.name))
    staying: Mapping[str, Entry] = {**change.kept, **change.replaced}
    entries = [_fitted(staying[element], header) for element in held.entries if element in staying]
    old = replace(held.header, name=scratch.name)
    steps: list[SetStep] = [Create(scratch)]
    if entries or change.added:
        steps.append(Add(scratch, (*entries, *change.added.values())))
    return [*steps, Swap(header.name, scratch.name), Destroy(old, tuple(held.entries.values()))]


def _refuse_overfull(header: SetHeader, size: int) -> None:
    if header.maxelem is not None and not header.forceadd and size > header.maxelem:
        needed = f"must be at least {size}, as many entries as the set would hold"
        raise InvalidSetError([f'set "{header.name}": maxelem is {header.maxelem}: {needed}'])


def _refuse_outside(header: SetHeader, kept: Entries) -> None:
    if header.ports is None:
        return
    first, last = header.ports
    outside = [element for element in kept if not first <= int(element) <= last]
    if outside:
        raise InvalidSetError(
            [
                f'set "{header.name}": range is "{first}-{last}": must include the port {outside[0]}, which stays in the set'
            ]
        )
