# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jumps of ours in built-in chains of iptables: which are missing, doubled or out of place, and the edits of these hooks. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .._objects.iptables import ChainKey, Desired, Jump, Observed, Rules, target_of
from .iptables_order import drops_by_default

_BUILT_IN_TARGET = re.compile(r"[A-Z][A-Z0-9]*$")


@dataclass
class HookEdit:
    """One hook: what is deleted from ``old`` (by index), what is put at either end, and what comes out.

    between: what is put elsewhere once that is done, each with its index then.
    """

    old: Rules
    deleted: list[int]
    first: list[str]
    last: list[str]
    between: list[tuple[int, str]]

    @property
    def new(self) -> list[str]:
        kept = [rule for index, rule in enumerate(self.old) if index not in set(self.deleted)]
        found = self.first + kept + self.last
        for index, rule in self.between:
            found.insert(index, rule)
        return found

    @property
    def changed(self) -> bool:
        return bool(self.deleted or self.first or self.last or self.between)

    def apply_lines(self, hook: str) -> tuple[list[str], list[str]]:
        whole = [index for index in self.deleted if _is_restorable(self.old[index])]
        by_number = sorted(set(self.deleted) - set(whole), reverse=True)
        deletions = [f"-D {hook} {index + 1}" for index in by_number] + [f"-D {hook} {self.old[i]}" for i in whole]
        insertions = [f"-I {hook} 1 {rule}" for rule in reversed(self.first)]
        insertions += [f"-A {hook} {rule}" for rule in self.last]
        return deletions, insertions + [f"-I {hook} {index + 1} {rule}" for index, rule in self.between]

    def undo_lines(self, hook: str) -> tuple[list[str], list[str]]:
        deletions = [f"-D {hook} {rule}" for rule in [*self.first, *self.last, *(rule for _at, rule in self.between)]]
        return deletions, [f"-I {hook} {index + 1} {restorable(self.old[index])}" for index in self.deleted]


def _is_restorable(rule: str) -> bool:
    """Whether iptables-restore, which reads a rule from one line, can name it."""
    return "\n" not in rule


def restorable(rule: str) -> str:
    """Return a rule on one line: a comment of others may have line breaks, which become spaces."""
    return rule.replace("\n", " ")


def chains_of_table(chains: Mapping[ChainKey, Rules], table: str) -> dict[str, Rules]:
    """The chains of one table, by name."""
    return {name: rules for (of, name), rules in chains.items() if of == table}


def hook_edits(table: str, desired: Desired, observed: Observed, ours: set[str]) -> dict[str, HookEdit]:
    """The hooks of a table that change. ours: the names of our chains in it, to which only jumps of ours lead."""
    wanted: dict[str, list[Jump]] = {}
    for jump in desired.jumps:
        if jump.table == table:
            wanted.setdefault(jump.hook, []).append(jump)
    held = chains_of_table(observed.hooks, table)
    others = chains_of_table(observed.others, table)
    going = ours - chains_of_table(desired.chains, table).keys()
    edits = {}
    for hook in set(held) | set(wanted):
        rules = held.get(hook, ())
        candidates = [i for i, rule in enumerate(rules) if _is_to_go(rule, ours, going)]
        edits[hook] = _hook_edit(hook, rules, wanted.get(hook, []), candidates, others)
    return {hook: edit for hook, edit in edits.items() if edit.changed}


def _is_to_go(rule: str, ours: set[str], going: set[str]) -> bool:
    """Whether a rule goes unless it is wanted: it leads to a chain of ours. One of more than one line is nothing that we write."""
    return target_of(rule) in (ours if _is_restorable(rule) else going)


def _hook_edit(
    hook: str, rules: Rules, jumps: Sequence[Jump], candidates: list[int], others: Mapping[str, Rules]
) -> HookEdit:
    """candidates: the rules that go unless a jump is just that rule, by index."""
    repeated = Counter(rules[index] for index in candidates)
    missing, kept = [], set()
    overtaking = {jump.rule for jump in jumps if jump.overtakes}
    behind = max((index for index in candidates if rules[index] in overtaking), default=0)
    is_overtaken = drops_by_default([rules[i] for i in range(behind) if i not in candidates], others, hook)
    for jump in jumps:
        found = [i for i in candidates if rules[i] == jump.rule and repeated[jump.rule] == 1]
        if found and _is_in_place(rules, found[0], jump) and not (jump.overtakes and is_overtaken):
            kept.add(found[0])
        else:
            missing.append(jump)
    edit = HookEdit(
        rules,
        [index for index in candidates if index not in kept],
        [jump.rule for jump in missing if jump.position == "first" and not jump.behind],
        [jump.rule for jump in missing if jump.position == "last"],
        [],
    )
    for jump in missing:
        if jump.position == "first" and jump.behind:
            edit.between.append((first_place(edit.new, jump.behind), jump.rule))
    return edit


def first_place(rules: Rules, behind: Collection[str]) -> int:
    """Return the index of what is first but for the jumps to some chains, and what is in front of these."""
    return max((index + 1 for index, rule in enumerate(rules) if target_of(rule) in behind), default=0)


def _is_in_place(rules: Rules, index: int, jump: Jump) -> bool:
    if jump.position == "last":
        return not jump.anchored or all(map(_leads_to_chain, rules[index + 1 :]))
    place = first_place(rules, jump.behind)
    return index >= place and (not jump.anchored or all(map(_leads_to_chain, rules[place:index])))


def _leads_to_chain(rule: str) -> bool:
    """Whether a rule only jumps to a user-defined chain.

    Extension targets (``ACCEPT``, ``MASQUERADE``) are one upper-case word and so could be the name of a chain;
    such a chain counts as a target here, which at worst moves our jump past it once.
    """
    target = target_of(rule)
    return target is not None and not _BUILT_IN_TARGET.match(target)
