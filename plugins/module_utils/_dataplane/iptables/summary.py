# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of which service, told by the lines that change. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..._objects.iptables import ChainKey, Desired, Observed, Rules
from ..._objects.iptables_text import logical_lines
from ..._plan.iptables import ChainPlan
from ..interface import Summary
from ..netfilter.names import Layout, owner_of


def summarise(
    desired: Iterable[Desired], observed: Iterable[Observed], plans: Iterable[ChainPlan], layout: Layout
) -> Summary:
    """What becomes of which service, over all families."""
    observed = list(observed)
    had = {name for one in observed for name in _names(one.chains, layout)}
    has = {name for one in desired for name in _names(one.chains, layout)}
    stay = has & had
    return Summary(sorted(has - had), sorted(stay and stay & _touched(observed, plans, layout)), sorted(had - has))


def _touched(observed: Sequence[Observed], plans: Iterable[ChainPlan], layout: Layout) -> set[str]:
    """The services of which a line goes or comes."""
    chain_owners = {key[1]: owner for one in observed for key, owner in _owners(one, layout).items()}
    return {owner for one in plans for line in _changed_lines(one, layout) for owner in _line_owner(line, chain_owners)}


def _names(chains: Mapping[ChainKey, Rules], layout: Layout) -> set[str]:
    """The services of which there is at least one rule. In a chain of one service the first rule that names it is enough."""
    found: set[str | None] = set()
    for key, rules in chains.items():
        if layout.is_per_service(key):
            found.add(next(filter(None, map(owner_of, rules)), None))
        else:
            found.update(map(owner_of, rules))
    return {name for name in found if name}


def _changed_lines(one: ChainPlan, layout: Layout) -> list[str]:
    """The lines that go or come, without rules that only move to another chain of their dispatch tree."""
    gone, come = _lines_by_tree(one.before, layout), _lines_by_tree(one.after, layout)
    lines = [line for found in (gone, come) for line in found.get(None, ())]
    for key in (gone.keys() | come.keys()) - {None}:
        before, after = gone.get(key, []), come.get(key, [])
        if not (before and after) or set(before) & set(after):
            lines += before + after
    return lines


def _lines_by_tree(text: str, layout: Layout) -> dict[tuple[ChainKey, str] | None, list[str]]:
    """The lines of a diff by their dispatch tree and rule; those of no tree by None."""
    found: dict[tuple[ChainKey, str] | None, list[str]] = {}
    table = ""
    for line in logical_lines(text.rstrip("\n")):
        words = line.split(" ", 2)
        table = line[1:] if line.startswith("*") else table
        first = layout.dispatch((table, words[1])) if words[0] == "-A" else None
        found.setdefault((first, words[2]) if first else None, []).append(line)
    return found


def _line_owner(line: str, chain_owners: dict[str, str]) -> list[str]:
    words = line.split(" ", 2)
    owner = owner_of(line) or (chain_owners.get(words[1]) if words[0] == "-A" else None)
    return [owner] if owner else []


def _owners(observed: Observed, layout: Layout) -> dict[ChainKey, str]:
    """The service of each chain that is of one service alone, by those of its rules that name it."""
    found: dict[ChainKey, str] = {}
    for key, rules in observed.chains.items():
        names = {owner for owner in map(owner_of, rules) if owner}
        if layout.is_per_service(key) and len(names) == 1:
            found[key] = names.pop()
    return found
