# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipsets of the ipvs dataplane, wanted against held: what comes before the rules and services change, and what goes after.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..._model.service import InvalidServices
from ..._objects.ipset import Entries, Entry, HeldSet, SetHeader, add_line, create_line
from ..._plan.ipset_steps import Add, Create, Delete, Destroy, SetStep
from .sets import WantedSet


class SetDifference(NamedTuple):
    """Entries by the name of their set, with their comments."""

    removed: dict[str, dict[str, str]]
    added: dict[str, dict[str, str]]

    def add(self, name: str, removed: Entries, added: Entries) -> None:
        """Note the difference of one set."""
        for side, entries in zip(self, (removed, added)):
            if entries:
                side.setdefault(name, {}).update((element, entry.comment or "") for element, entry in entries.items())


@dataclass
class ServiceSetsPlan:
    """additions: before anything that uses the sets; removals: entries that go once nothing needs them; destroyed: sets that go
    once no rule matches them.
    """

    additions: list[SetStep] = field(default_factory=list)
    removals: list[SetStep] = field(default_factory=list)
    destroyed: list[SetStep] = field(default_factory=list)
    before: str = ""
    after: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.additions or self.removals or self.destroyed)

    def difference(self) -> SetDifference:
        """Return what this does to sets that stay."""
        found = SetDifference({}, {})
        for step in [*self.additions, *self.removals]:
            if isinstance(step, Add):
                found.add(step.header.name, _by_element(step.replaced), _by_element(step.entries))
            elif isinstance(step, Delete):
                found.add(step.header.name, _by_element(step.entries), {})
        return found


def plan_service_sets(wanted: Mapping[str, WantedSet], held: Mapping[str, HeldSet]) -> ServiceSetsPlan:
    """By name. Raises InvalidServices for a set of our name that is of another kind."""
    plan = ServiceSetsPlan()
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    _refuse_others(wanted, held)
    for name in sorted({*wanted, *held}):
        if name not in wanted:
            entries = tuple(held[name].entries.values())
            plan.destroyed.append(Destroy(held[name].header, entries))
            before[name] = [create_line(held[name].header)] + _lines(name, entries)
        elif name not in held:
            entries = tuple(wanted[name].entries.values())
            plan.additions += [Create(wanted[name].header), *([Add(wanted[name].header, entries)] if entries else [])]
            after[name] = [create_line(wanted[name].header)] + _lines(name, entries)
        else:
            before[name], after[name] = _change(plan, wanted[name], held[name])
    plan.before, plan.after = _text(before), _text(after)
    return plan


def _change(plan: ServiceSetsPlan, wanted: WantedSet, held: HeldSet) -> tuple[list[str], list[str]]:
    name = held.header.name
    coming, replaced = [], []
    for element, entry in wanted.entries.items():
        have = held.entries.get(element)
        if have is None or (have.comment or "") != (entry.comment or ""):
            coming.append(entry)
            if have is not None:
                replaced.append(have)
    going = [entry for element, entry in held.entries.items() if element not in wanted.entries]
    if coming:
        plan.additions.append(Add(held.header, tuple(coming), tuple(replaced)))
    if going:
        plan.removals.append(Delete(held.header, tuple(going)))
    return _lines(name, [*going, *replaced]), _lines(name, coming)


def _refuse_others(wanted: Mapping[str, WantedSet], held: Mapping[str, HeldSet]) -> None:
    problems = []
    for name in sorted(set(wanted) & set(held)):
        header, found = wanted[name].header, held[name].header
        if not _holds(found, header):
            problems.append(
                f'set "{name}" exists as "{create_line(found)}" and is needed as "{create_line(header)}": remove it, or choose another chain_prefix'
            )
    if problems:
        raise InvalidServices(problems)


def _holds(found: SetHeader, wanted: SetHeader) -> bool:
    """Whether a set can hold what is wanted of one."""
    same = (found.type, found.family) == (wanted.type, wanted.family)
    return same and found.timeout is None and (found.comment or not wanted.comment)


def _by_element(entries: Sequence[Entry]) -> Entries:
    return {entry.element: entry for entry in entries}


def _lines(name: str, entries: Sequence[Entry]) -> list[str]:
    return sorted(add_line(name, entry) for entry in entries)


def _text(lines: Mapping[str, list[str]]) -> str:
    return "".join(line + "\n" for name in sorted(lines) for line in lines[name])
