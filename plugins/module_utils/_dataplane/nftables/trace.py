# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new connection meets on a node: its first packet led through the chains of a table as the kernel would. Pure.

Nothing here knows services. Where a number is drawn every way is followed, and ways that come to the same are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from ..._objects.nftables import Statement, Table, Verdict
from ..._objects.nftables_rule_text import rule_text
from ..packet import Packet, Step, Trace
from .statements import BREAK, PASS, STOP, Effect, State, outcomes

_NEXT, _RETURN = "next", "return"
"""The next rule is asked; the chain is left, as at its end."""
_Ways = dict[State, Fraction]
"""The states in which a packet may be, each with its chance."""
_Ends = dict[str, _Ways]
"""Ways by how they leave a rule or a chain: `_NEXT`, `_RETURN` or `STOP`."""


def trace(table: Table, packet: Packet) -> Trace:
    """Follow a packet that comes to a node with this table, or (its source is local) leaves from it. Raises UnknownStatement."""
    walk = _Walk(table)
    sent = packet.is_local(packet.source)
    ways = walk.through("output" if sent else "prerouting", {State(packet): Fraction(1)})
    delivered = {way: chance for way, chance in ways.items() if way.packet.is_local(way.packet.destination)}
    leaving = {way: chance for way, chance in ways.items() if way not in delivered}
    if sent:
        delivered = walk.through("postrouting", delivered)
    else:
        leaving = walk.through("forward", leaving)
    ends = _merged(walk.through("input", delivered), walk.through("postrouting", leaving))
    result: dict[Packet, Fraction] = {}
    for way, chance in ends.items():
        end = way.packet._replace(mark=0)
        result[end] = result.get(end, Fraction(0)) + chance
    return Trace(result, walk.steps(), any(way.is_remembered for way in ends))


def _merged(*parts: Mapping[State, Fraction]) -> _Ways:
    result: _Ways = {}
    for part in parts:
        for way, chance in part.items():
            result[way] = result.get(way, Fraction(0)) + chance
    return result


class _Walk:
    """Leads packets through the chains of one table, and counts which rules take them."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._taken: dict[tuple[str, int], Fraction] = {}

    def steps(self) -> list[Step]:
        """The rules that have taken a packet, in the order in which they first did."""
        name = f"{self._table.family} {self._table.name}"
        return [
            Step(name, chain, rule_text(self._table.chains[chain].rules[at]), min(chance, Fraction(1)))
            for (chain, at), chance in self._taken.items()
        ]

    def through(self, hook: str, arriving: _Ways) -> _Ways:
        """Through the base chains of a hook. What is refused already goes nowhere."""
        found = [
            (one.hook.priority, name) for name, one in self._table.chains.items() if one.hook and one.hook.name == hook
        ]
        for dummy, name in sorted(found):
            refused = {way: chance for way, chance in arriving.items() if way.packet.verdict}
            going = {way: chance for way, chance in arriving.items() if not way.packet.verdict}
            arriving = _merged(refused, *self._chain(name, going).values())
        return arriving

    def _chain(self, name: str, here: _Ways) -> _Ends:
        """The ways behind a chain: those that go on where it was entered, and those that the hook is done with."""
        left: list[_Ways] = []
        stopped: list[_Ways] = []
        for at, rule in enumerate(self._table.chains[name].rules):
            ends: _Ends = {_NEXT: {}, _RETURN: {}, STOP: {}}
            for way, chance in here.items():
                self._statements((name, at), rule.statements, way, chance, ends)
            here = ends[_NEXT]
            left.append(ends[_RETURN])
            stopped.append(ends[STOP])
        return {_NEXT: _merged(here, *left), STOP: _merged(*stopped)}

    def _statements(
        self, where: tuple[str, int], statements: Sequence[Statement], way: State, chance: Fraction, ends: _Ends
    ) -> None:
        """Lead a packet through what is left of a rule; where it comes out is added to the ends."""
        if not statements:
            self._end(where, _NEXT, {way: chance}, ends)
            return
        for effect, behind, share in outcomes(statements[0], way, self._table.sets):
            if effect == PASS:
                self._statements(where, statements[1:], behind, chance * share, ends)
            elif effect == BREAK:
                ends[_NEXT] = _merged(ends[_NEXT], {behind: chance * share})
            else:
                self._effect(where, effect, behind, chance * share, ends)

    def _effect(self, where: tuple[str, int], effect: Effect, way: State, chance: Fraction, ends: _Ends) -> None:
        if not isinstance(effect, Verdict) or effect.action == "accept":
            self._end(where, STOP, {way: chance}, ends)
        elif effect.action == "drop":
            self._end(where, STOP, {way._replace(packet=way.packet._replace(verdict="drop")): chance}, ends)
        elif effect.action == "return":
            self._end(where, _RETURN, {way: chance}, ends)
        else:
            self._count(where, chance)
            behind = self._chain(effect.chain, {way: chance})
            back = _NEXT if effect.action == "jump" else _RETURN
            ends[back] = _merged(ends[back], behind[_NEXT])
            ends[STOP] = _merged(ends[STOP], behind[STOP])

    def _end(self, where: tuple[str, int], end: str, ways: _Ways, ends: _Ends) -> None:
        self._count(where, sum(ways.values(), Fraction(0)))
        ends[end] = _merged(ends[end], ways)

    def _count(self, where: tuple[str, int], chance: Fraction) -> None:
        self._taken[where] = self._taken.get(where, Fraction(0)) + chance
