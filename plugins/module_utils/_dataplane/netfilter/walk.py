# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new connection meets on a node: its first packet led through the compiled chains as the kernel would. Pure.

Nothing here knows services. Where a rule asks the dice both ways are followed, and ways that come to the same are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from ..._objects.iptables import ChainKey, Desired, Rules
from ..._objects.iptables_words import BUILT_IN_CHAINS
from ..packet import Packet, Step, Trace
from .rule_match import FINAL_TARGETS, PASSING_TARGETS, InSet, UnknownRule, in_no_set, parse_rule

Branches = dict[Packet, Fraction]
"""The states in which a packet may be, each with its chance."""


def trace(state: Desired, packet: Packet) -> Trace:
    """Follow a packet that comes to a node in this state, or (its source is local) leaves from it. Raises UnknownRule."""
    walk = Walk(state)
    sent = packet.is_local(packet.source)
    branches = walk.through("nat", "OUTPUT" if sent else "PREROUTING", {packet: Fraction(1)})
    if sent:
        branches = walk.through("filter", "OUTPUT", branches)
    delivered = {one: chance for one, chance in branches.items() if one.is_local(one.destination)}
    leaving = {one: chance for one, chance in branches.items() if one not in delivered}
    if sent:
        delivered = walk.through("nat", "POSTROUTING", delivered)
    else:
        leaving = walk.through("filter", "FORWARD", leaving)
    delivered = walk.through("filter", "INPUT", delivered)
    outcomes = merged(delivered, walk.through("nat", "POSTROUTING", leaving))
    return walk.trace(outcomes)


def merged(*parts: Mapping[Packet, Fraction]) -> Branches:
    """All of them; what is in several with the sum of its chances."""
    result: Branches = {}
    for part in parts:
        for packet, chance in part.items():
            result[packet] = result[packet] + chance if packet in result else chance
    return result


class Walk:
    """Leads packets through the chains of one state, and counts which rules take them."""

    def __init__(self, state: Desired, in_set: InSet = in_no_set) -> None:
        self._in_set = in_set
        self._chains: dict[ChainKey, Rules] = dict(state.chains)
        for jump in state.jumps:
            key = (jump.table, jump.hook)
            self._chains[key] = [*self._chains.get(key, ()), jump.rule]
        self._taken: dict[tuple[ChainKey, int, str], Fraction] = {}

    def steps(self) -> list[Step]:
        """A rule that takes a packet twice takes it for certain where it did the first time."""
        return [Step(*key, text, min(chance, Fraction(1))) for (key, dummy, text), chance in self._taken.items()]

    def trace(self, outcomes: Branches) -> Trace:
        """Return what becomes of the packet, with what has taken it. Who is added to a set is remembered."""
        steps = self.steps()
        return Trace(
            outcomes,
            steps,
            any("--add-set" in parse_rule(step.rule).settings for step in steps if step.table in BUILT_IN_CHAINS),
        )

    def through(self, table: str, hook: str, arriving: Branches) -> Branches:
        """Through a built-in chain, whose policy is ACCEPT. What is refused already goes nowhere."""
        refused = {packet: chance for packet, chance in arriving.items() if packet.verdict}
        going = {packet: chance for packet, chance in arriving.items() if not packet.verdict}
        behind, decided = self._chain((table, hook), going)
        return merged(refused, behind, decided)

    def _chain(self, key: ChainKey, here: Branches) -> tuple[Branches, Branches]:
        """Those that come back from a chain, and those on which it decides."""
        returned: Branches = {}
        decided: Branches = {}
        for at, text in enumerate(self._chains.get(key, ())):
            taken, here = _split(text, here, self._in_set)
            if not taken:
                continue
            self.count(key, at, text, sum(taken.values(), Fraction(0)))
            back, behind, final = self._target(key[0], text, taken)
            returned, here, decided = merged(returned, back), merged(here, behind), merged(decided, final)
        return merged(returned, here), decided

    def count(self, key: ChainKey, at: int, text: str, chance: Fraction) -> None:
        """One more step, or the same once more. at: tells equal rules of a chain apart."""
        self._taken[key, at, text] = self._taken.get((key, at, text), Fraction(0)) + chance

    def _target(self, table: str, text: str, taken: Branches) -> tuple[Branches, Branches, Branches]:
        """Where a rule sends what it takes: back to the calling chain, on to the next rule, or to its end."""
        rule = parse_rule(text)
        if rule.target == "RETURN":
            return taken, {}, {}
        if (table, rule.target) in self._chains:
            behind, decided = self._chain((table, rule.target), taken)
            return (behind, {}, decided) if rule.goto else ({}, behind, decided)
        change = FINAL_TARGETS.get(rule.target) or PASSING_TARGETS.get(rule.target)
        if change is None:
            raise UnknownRule(f"the target {rule.target} is not known (in the rule: {text})")
        changed = merged(*({change(packet, rule.settings): chance} for packet, chance in taken.items()))
        return ({}, {}, changed) if rule.target in FINAL_TARGETS else ({}, changed, {})


def _split(text: str, here: Branches, in_set: InSet) -> tuple[Branches, Branches]:
    """Those that a rule takes, and those that it leaves to the next."""
    rule = parse_rule(text)
    taken: Branches = {}
    left: Branches = {}
    for packet, whole in here.items():
        chance = rule.chance(packet, in_set)
        if chance:
            taken[packet] = whole if chance == 1 else whole * chance
        if chance != 1:
            left[packet] = whole * (1 - chance) if chance else whole
    return taken, left
