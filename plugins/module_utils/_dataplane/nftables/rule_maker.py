# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What rules of several chains have in common. Pure."""

from __future__ import annotations

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.nftables import Bits, InSet, Numgen, Rule, SetField, Statement, Verdict
from ..._objects.nftables_types import number, pack
from . import maps
from .slots import TABLES

DSTNAT, FILTER, SRCNAT = -100, 0, 100
"""Priorities of hooks."""
ALL_BITS = 0xFFFFFFFF
IS_LOCAL = pack("fib_addrtype", "local")

Rules = list[Rule]


def goto(chain: str) -> Verdict:
    return Verdict("goto", chain)


def jump(chain: str) -> Verdict:
    return Verdict("jump", chain)


def rule(*statements: Statement) -> Rule:
    return Rule(statements)


def draws(kind: str, size: int) -> list[Numgen]:
    """Return what draws one of so many slots: of each table in turn, where there are several.

    The last is for those who meet a table while it is replaced by a smaller one.
    """
    tables = range(TABLES if kind else 1)
    return [*(Numgen("random", size, table * size) for table in tables), Numgen("random", 1)]


class RuleMaker:
    """Makes rules for a node in one family."""

    def __init__(self, node: Node, family: str) -> None:
        self.node, self.family = node, family
        self.fields = maps.FIELDS[family]

    def mark(self) -> Statement:
        """Return what marks a packet for masquerade."""
        value, mask = self.node.masquerade_mark
        return SetField("meta mark", Bits("meta mark", number(~mask & ALL_BITS), number(value)))

    def mark_vip(self) -> Rules:
        """Return what marks packets to a VIP, as the settings of the node say."""
        if self.node.masquerade_all:
            return [rule(self.mark())]
        if not self._has_local_sources():
            return []
        return [rule(InSet((self.fields.source,), maps.LOCAL_SOURCES, inverted=True), self.mark())]

    def _has_local_sources(self) -> bool:
        return any(ip.family_of(cidr) == self.family for cidr in self.node.local_cidrs)

    def from_local_sources(self, *statements: Statement) -> Rules:
        """Return what is done with packets from local sources; nothing where the node has none of this family."""
        if not self._has_local_sources():
            return []
        return [rule(InSet((self.fields.source,), maps.LOCAL_SOURCES), *statements)]
