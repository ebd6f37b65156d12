# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between the tables of nftables that are wanted and those that the kernel holds. Pure.

All of it is one transaction: what goes is taken away first, so that what comes may have its name. Comments of tables and chains are
written when these are made, and not compared; neither are the elements of sets that packets fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .._objects.nftables import (
    Chain,
    Elements,
    FlowOffload,
    InSet,
    Mapped,
    Rule,
    Set,
    Table,
    Update,
    Verdict,
    VerdictMap,
)
from .._objects.nftables_changes import (
    AddChain,
    AddElements,
    AddFlowtable,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteFlowtable,
    DeleteSet,
    DeleteTable,
    NftChange,
    ReplaceRules,
    TableId,
)
from .nftables_lines import difference_text
from .nftables_stages import staged

Tables = Mapping[TableId, Table]


class NftPlan(NamedTuple):
    """What makes the wanted tables of those that are held. The way back is the plan in the other direction (`undo`)."""

    wanted: Tables
    held: Tables
    changes: list[NftChange]  # one transaction
    cleanup: list[
        NftChange
    ]  # a second one: chains that elements led to, which kernels before 6.2 hold until the first is done

    @property
    def changed(self) -> bool:
        return bool(self.changes or self.cleanup)

    def undo(self) -> NftPlan:
        return plan_tables(self.held, self.wanted)

    def undo_before_cleanup(self) -> NftPlan:
        """Return the way back from where all is done but `cleanup`, which removes chains that are empty."""
        left = {
            one: table._replace(chains={**table.chains, **self._emptied(one)}) for one, table in self.wanted.items()
        }
        return plan_tables(self.held, left)

    def _emptied(self, table: TableId) -> dict[str, Chain]:
        return {
            change.name: Chain(())
            for change in self.cleanup
            if isinstance(change, DeleteChain) and change.table == table
        }

    def before(self) -> str:
        """Return what is there and will not be so, as commands of nft(8)."""
        return difference_text(self.held, self.wanted)

    def after(self) -> str:
        """Return what will be there and is not so, as commands of nft(8)."""
        return difference_text(self.wanted, self.held)

    def transactions(self, limit: int) -> list[list[NftChange]]:
        """Return the changes as transactions in their order. limit: bytes that one may have."""
        return [part for part in (*staged(self.changes, limit), self.cleanup) if part]


def plan_tables(wanted: Tables, held: Tables) -> NftPlan:
    """held: only what may be changed; what is not wanted of it goes."""
    changes: list[NftChange] = [DeleteTable(one) for one in sorted(set(held) - set(wanted))]
    cleanup: list[NftChange] = []
    for one in sorted(wanted):
        want, have = wanted[one], held.get(one)
        if have is None or have.is_dormant:
            changes.append(AddTable(one, want.comment))
        have = have or Table(one.family, one.name, {}, {}, {})
        difference = _Difference(one, want, have)
        changes += difference.changes()
        cleanup += difference.cleanup()
    return NftPlan(wanted, held, changes, cleanup)


class _Difference:
    """The difference of one table."""

    def __init__(self, table: TableId, wanted: Table, held: Table) -> None:
        self.table, self.wanted, self.held = table, wanted, held
        self.lost_sets = [name for name, one in held.sets.items() if _is_other_set(one, wanted.sets.get(name))]
        self.lost_flowtables = [name for name, one in held.flowtables.items() if wanted.flowtables.get(name) != one]
        self.lost_chains = [name for name, one in held.chains.items() if _is_other_chain(one, wanted.chains.get(name))]
        self.led_to = {
            element.data.chain
            for one in held.sets.values()
            for element in one.elements.values()
            if isinstance(element.data, Verdict)
        }

    def changes(self) -> list[NftChange]:
        """Return what is done at once."""
        return [*self._removals(), *self._additions()]

    def cleanup(self) -> list[NftChange]:
        """Return what can only be done afterwards."""
        return [DeleteChain(self.table, name) for name in self.lost_chains if self._is_held_by_elements(name)]

    def _is_held_by_elements(self, chain: str) -> bool:
        return chain in self.led_to and chain not in self.wanted.chains

    def _removals(self) -> Iterable[NftChange]:
        for name, chain in self.held.chains.items():
            if chain.rules and (name in self.lost_chains or self._uses_lost(chain)):
                yield ReplaceRules(self.table, name, chain.rules, ())
        for name, one in self.held.sets.items():
            if name not in self.lost_sets:
                gone = _without(one.elements, self.wanted.sets[name].elements)
                if gone and not one.header.is_filled_by_packets:
                    yield DeleteElements(self.table, name, one.header, gone)
        for name in self.lost_sets:
            yield DeleteSet(self.table, name)
        for name in self.lost_flowtables:
            yield DeleteFlowtable(self.table, name)
        for name in self.lost_chains:
            if not self._is_held_by_elements(name):
                yield DeleteChain(self.table, name)

    def _uses_lost(self, chain: Chain) -> bool:
        lost = {*self.lost_sets, *self.lost_flowtables, *self.lost_chains}
        return bool(lost) and any(not lost.isdisjoint(names_in(rule)) for rule in chain.rules)

    def _additions(self) -> Iterable[NftChange]:
        for name, flowtable in self.wanted.flowtables.items():
            if self.held.flowtables.get(name) != flowtable:
                yield AddFlowtable(self.table, name, flowtable)
        for name, one in self.wanted.sets.items():
            if name in self.lost_sets or name not in self.held.sets:
                yield AddSet(self.table, name, one.header)
        for name, chain in self.wanted.chains.items():
            if name in self.lost_chains or name not in self.held.chains:
                yield AddChain(self.table, name, chain)
        for name, one in self.wanted.sets.items():
            added = _without(one.elements, self._kept_elements(name))
            if added and not one.header.is_filled_by_packets:
                yield AddElements(self.table, name, one.header, added)
        for name, chain in self.wanted.chains.items():
            kept = self._kept_rules(name)
            if kept != chain.rules:
                yield ReplaceRules(self.table, name, kept, chain.rules)

    def _kept_elements(self, name: str) -> Elements:
        return self.held.sets[name].elements if name in self.held.sets and name not in self.lost_sets else {}

    def _kept_rules(self, name: str) -> tuple[Rule, ...]:
        held = self.held.chains.get(name)
        if held is None or name in self.lost_chains or self._uses_lost(held):
            return ()
        return held.rules


def _is_other_set(held: Set, wanted: Set | None) -> bool:
    return wanted is None or wanted.header != held.header


def _is_other_chain(held: Chain, wanted: Chain | None) -> bool:
    return wanted is None or wanted.hook != held.hook


def _without(elements: Elements, other: Elements) -> Elements:
    """Return the elements that the other set does not hold as they are here."""
    if not other:
        return elements
    return {key: element for key, element in elements.items() if other.get(key) != element}


def names_in(rule: Rule) -> set[str]:
    """Return the sets, maps, flow tables and chains that a rule names."""
    names: set[str] = set()
    for statement in rule.statements:
        parts = [statement, *statement]
        names |= {part.map for part in parts if isinstance(part, (Mapped, VerdictMap))}
        names |= {part.set for part in parts if isinstance(part, (InSet, Update))}
        names |= {part.chain for part in parts if isinstance(part, Verdict)}
        names |= {part.flowtable for part in parts if isinstance(part, FlowOffload)}
    return names - {""}
