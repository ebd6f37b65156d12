# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between the chains that are wanted and those that the kernel holds, for one address family.

Pure: the caller observes, and applies the text that comes out of here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property

from .._objects.iptables import Desired, Observed, Rules, target_of
from .iptables_hooks import chains_of_table, hook_edits, restorable

_FEW_CHAINS = 1000
_BLOCK = 500
"""Chains."""
_LONGEST_EXACT_DIFF = 500
"""Above so many lines a chain's difference is found by counting lines: an exact one costs quadratic time."""


class _TablePlan:
    """One table: the chains that are wanted and held, with their rules, and the edits of its hooks."""

    def __init__(self, name: str, desired: Desired, observed: Observed) -> None:
        self.name = name
        self.wanted, self.held = chains_of_table(desired.chains, name), chains_of_table(observed.chains, name)
        chains = self.wanted.keys() | self.held.keys()
        managed = {one for one in chains if (name, one) not in desired.unmanaged}
        self.edits = hook_edits(name, desired, observed, managed)
        self.differing = sorted(one for one in chains if _differs(self.wanted.get(one), self.held.get(one)))

    def __bool__(self) -> bool:
        return bool(self.differing or self.edits)

    def restore(self) -> list[str]:
        applied = [edit.apply_lines(hook) for hook, edit in sorted(self.edits.items())]
        return _table_text(self.name, self.differing, self._come, self.wanted, applied)

    def unhooked(self) -> list[str]:
        """What takes the jumps away alone."""
        return [
            f"*{self.name}",
            *(line for hook, edit in self.edits.items() for line in edit.apply_lines(hook)[0]),
            "COMMIT",
        ]

    def blocks(self) -> list[str]:
        """What empties the chains and then deletes them, some at a time; those that jumps led to, by which others are found, last."""
        led_to = {target_of(edit.old[index]) for edit in self.edits.values() for index in edit.deleted}
        names = sorted(self.differing, key=lambda name: (name in led_to, name))
        parts = [names[at : at + _BLOCK] for at in range(0, len(names), _BLOCK)]
        emptied = [[f":{name} - [0:0]" for name in part] for part in parts]
        deleted = [[f"-X {name}" for name in part] for part in parts]
        return [line for block in emptied + deleted for line in (f"*{self.name}", *block, "COMMIT")]

    def undo(self) -> list[str]:
        undone = [edit.undo_lines(hook) for hook, edit in sorted(self.edits.items())]
        held = {name: list(map(restorable, self.held[name])) for name in self.differing if name in self.held}
        return _table_text(self.name, self.differing, _appended(self.differing, held), self.held, undone)

    def before(self) -> list[str]:
        return self._side(self.wanted, self._gone, 0)

    def after(self) -> list[str]:
        return self._side(self.held, self._come, 1)

    @cached_property
    def _come(self) -> dict[str, str]:
        return _appended(self.differing, self.wanted)

    @cached_property
    def _gone(self) -> dict[str, str]:
        return _appended(self.differing, self.held)

    @cached_property
    def _changes(self) -> dict[str, tuple[Rules, Rules]]:
        """Of the chains and hooks on both sides: the rules that go, and those that come."""
        wanted, held = self.wanted, self.held
        both = {name: (held[name], wanted[name]) for name in self.differing if name in held and name in wanted}
        both.update({hook: (edit.old, edit.new) for hook, edit in self.edits.items()})
        return {name: _diff_rules(*rules) for name, rules in both.items()}

    def _side(self, others: Collection[str], appended: Mapping[str, str], side: int) -> list[str]:
        """The lines on one side of the diff. others: chains of the other side."""
        alone = [name for name in self.differing if name not in others]
        text = _diff_side(alone, appended, {name: change[side] for name, change in self._changes.items()})
        return [f"*{self.name}", *text, "COMMIT"] if text else []


class ChainPlan:
    """What differs. result: what is held once it is applied.

    Texts are made when they are asked for first: those of a diff and of a failure can wait until the change is under way.
    """

    def __init__(self, tables: Sequence[_TablePlan] = (), result: Observed | None = None) -> None:
        self._tables = tables
        self.result = result or Observed()

    @property
    def changed(self) -> bool:
        return bool(self._tables)

    @cached_property
    def restore(self) -> str:
        """What to feed to ``iptables-restore --noflush``."""
        return _lines(table.restore() for table in self._tables)

    @cached_property
    def stages(self) -> tuple[str, str] | None:
        """The same, where all of many chains are removed: what takes the jumps away, then what removes the chains in many blocks.

        iptables-nft searches a list of all chains that a block names for each of its lines; in small blocks it takes a seventh of the
        time. Once nothing leads to the chains, nobody sees that they are removed one after the other.
        """
        held = sum(len(table.held) for table in self._tables)
        if held <= _FEW_CHAINS or any(table.wanted for table in self._tables):
            return None
        return _lines(table.unhooked() for table in self._tables), _lines(table.blocks() for table in self._tables)

    @cached_property
    def undo(self) -> str:
        """The same, to take it back."""
        return _lines(table.undo() for table in self._tables)

    @cached_property
    def before(self) -> str:
        """The lines that go."""
        return _lines(table.before() for table in self._tables)

    @cached_property
    def after(self) -> str:
        """The lines that come."""
        return _lines(table.after() for table in self._tables)


def plan(desired: Desired, observed: Observed) -> ChainPlan:
    """Compare both states of one address family."""
    tables = [_TablePlan(table, desired, observed) for table in _tables(desired, observed)]
    hooks = {(table.name, hook): edit.new for table in tables for hook, edit in table.edits.items()}
    result = Observed(dict(desired.chains), {**observed.hooks, **hooks})
    return ChainPlan([table for table in tables if table], result)


def _lines(parts: Iterable[list[str]]) -> str:
    return "\n".join([*(line for lines in parts for line in lines), ""])


def _tables(desired: Desired, observed: Observed) -> list[str]:
    tables = {table for table, dummy in [*desired.chains, *observed.chains, *observed.hooks]}
    return sorted(tables | {jump.table for jump in desired.jumps})


def _differs(one: Rules | None, other: Rules | None) -> bool:
    if one is None or other is None:
        return one is not other
    return list(one) != list(other)


def _table_text(
    table: str,
    names: Sequence[str],
    rules: Mapping[str, str],
    target: Collection[str],
    hooks: Iterable[tuple[list[str], list[str]]],
) -> list[str]:
    """One table's part of a restore: chains declared in sorted order, which iptables-nft needs to be fast, then the hooks."""
    edits = list(hooks)
    return [
        f"*{table}",
        *[f":{name} - [0:0]" for name in names],
        *(line for deletions, dummy in edits for line in deletions),
        *(line for dummy, insertions in edits for line in insertions),
        *rules.values(),
        *[f"-X {name}" for name in names if name not in target],
        "COMMIT",
    ]


def _appended(names: Iterable[str], chains: Mapping[str, Rules]) -> dict[str, str]:
    """The rules of these chains as they are appended, those of a chain as one text; in this order, without empty chains."""
    return {
        name: start + ("\n" + start).join(rules)
        for name in names
        for rules in [chains.get(name)]
        if rules
        for start in [f"-A {name} "]
    }


def _diff_side(alone: Sequence[str], appended: Mapping[str, str], changed: Mapping[str, Rules]) -> list[str]:
    """The lines of one table on one side of the diff: declarations of the chains that are on this side alone, then rules.

    appended: of those chains all; changed: of the others the rules that differ.
    """
    rules = {name: appended[name] for name in alone if name in appended}
    rules.update(_appended(changed, changed))
    return [*(f":{name} - [0:0]" for name in alone), *(rules[name] for name in sorted(rules))]


def _diff_rules(old: Rules, new: Rules) -> tuple[Rules, Rules]:
    """The rules that go and those that come; where only their order changes, all that change their place."""
    if not old or not new:
        return old, new
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    gone, come = list(old[start : len(old) - end]), list(new[start : len(new) - end])
    if sorted(gone) == sorted(come):
        return gone, come
    if len(gone) + len(come) > _LONGEST_EXACT_DIFF:
        return _minus(gone, come), _minus(come, gone)
    opcodes = SequenceMatcher(None, gone, come, autojunk=False).get_opcodes()
    edits = [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]
    return (
        [rule for i1, i2, dummy, dummy2 in edits for rule in gone[i1:i2]],
        [rule for dummy, dummy2, j1, j2 in edits for rule in come[j1:j2]],
    )


def _minus(rules: Sequence[str], others: Sequence[str]) -> list[str]:
    left = Counter(others)
    result = []
    for rule in rules:
        if left[rule]:
            left[rule] -= 1
        else:
            result.append(rule)
    return result
