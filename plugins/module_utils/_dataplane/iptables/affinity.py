# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipsets in which backends remember their clients, for session affinity. Pure.

They come before the rules that use them and go after them; what they hold is the kernel's own business.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ..._objects.ipset import MIN_HASHSIZE, SetHeader, create_line
from ..._objects.iptables import Desired
from ..netfilter.names import Layout

_MOST_CLIENTS = 1 << 20
"""Of one backend, or of one group; beyond it new clients are not remembered. The kernel's memory grows with those that come."""
_AGAIN = re.compile(r"--match-set (\S+) src -j (\S+)$")
_TIMEOUT = 10800
"""Seconds, the default of the set; the rules that add clients give their service's own."""


class SetPlan(NamedTuple):
    """Sets to create before the rules change, and sets to destroy after.

    fill: of groups of backends that are new, by their sets, the sets of their backends.
    """

    create: list[SetHeader]
    destroy: list[SetHeader]
    fill: Mapping[str, Sequence[str]] = MappingProxyType({})

    @property
    def changed(self) -> bool:
        return bool(self.create or self.destroy)

    @property
    def before(self) -> str:
        return "".join(create_line(header) + "\n" for header in self.destroy)

    @property
    def after(self) -> str:
        return "".join(create_line(header) + "\n" for header in self.create)


def plan_sets(desired: Mapping[str, Desired], held: Iterable[SetHeader], layout: Layout) -> SetPlan:
    """The sets that the wanted rules use against those of ours that the kernel holds."""
    wanted = {name: family for family, one in desired.items() for name in _used(one, layout)}
    ours = {header.name: header for header in held if layout.is_affinity_set(header.name)}
    new = sorted(set(wanted) - set(ours))
    return SetPlan(
        [_header(name, wanted[name]) for name in new],
        [ours[name] for name in sorted(set(ours) - set(wanted))],
        {name: found for one in desired.values() for name, found in _fill(new, ours, one).items()}
        if new and ours
        else {},
    )


def _fill(new: Iterable[str], held: Collection[str], desired: Desired) -> dict[str, list[str]]:
    """What each new set of a family has to know from the start: the clients of those that are behind it in the rules."""
    behind: dict[str, str] = {}
    asked: dict[str, list[str]] = {}
    for (dummy, chain), rules in desired.chains.items():
        for clients, target in filter(None, map(_again, rules)):
            behind[clients] = target
            asked.setdefault(chain, []).append(clients)

    def known(clients: str) -> list[str]:
        own = [clients] if clients in held else []
        return own + [name for other in asked.get(behind.get(clients, ""), ()) for name in known(other)]

    return {name: found for name in new if name in behind for found in [known(name)] if found}


def _again(rule: str) -> tuple[str, str] | None:
    found = _AGAIN.search(rule)
    return (found[1], found[2]) if found else None


def _used(desired: Desired, layout: Layout) -> Iterable[str]:
    return layout.affinity_sets(rule for rules in desired.chains.values() for rule in rules)


def _header(name: str, family: str) -> SetHeader:
    return SetHeader(name, "hash:ip", family, timeout=_TIMEOUT, hashsize=MIN_HASHSIZE, maxelem=_MOST_CLIENTS)
