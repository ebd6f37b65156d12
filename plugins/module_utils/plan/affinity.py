# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipsets in which backends remember their clients, for session affinity. Pure.

They come before the rules that use them and go after them; what they hold is the kernel's own business.
"""

from __future__ import annotations

from typing import Iterable, List, Mapping, NamedTuple

from ..dataplane.rules import Layout
from ..ipset_types import MIN_HASHSIZE, SetHeader, create_line
from ..ruleset import Desired

_MOST_CLIENTS = 1 << 20
"""Of one backend; beyond it new clients are not remembered. The kernel's memory grows with those that come."""
_TIMEOUT = 10800
"""Seconds, the default of the set; the rules that add clients give their service's own."""


class SetPlan(NamedTuple):
    """Sets to create before the rules change, and sets to destroy after."""

    create: List[SetHeader]
    destroy: List[SetHeader]

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
    return SetPlan(
        [_header(name, wanted[name]) for name in sorted(set(wanted) - set(ours))],
        [ours[name] for name in sorted(set(ours) - set(wanted))],
    )


def _used(desired: Desired, layout: Layout) -> Iterable[str]:
    return layout.affinity_sets(rule for rules in desired.chains.values() for rule in rules)


def _header(name: str, family: str) -> SetHeader:
    return SetHeader(name, "hash:ip", family, timeout=_TIMEOUT, hashsize=MIN_HASHSIZE, maxelem=_MOST_CLIENTS)
