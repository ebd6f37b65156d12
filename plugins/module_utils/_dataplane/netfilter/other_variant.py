# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in the tables of the variant of iptables, nft or legacy, that this host's tools are not of.

A host that was switched from one to the other has our rules in both, and the kernel asks them all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Callable, NamedTuple

from ..._kernel.iptables import NoXtablesError, Xtables
from ..._kernel.iptables_variant import other_variant
from ..._objects.iptables import COMMANDS, ChainKey, Desired, Observed, Rules, target_of
from ..._objects.iptables_text import parse_tables
from ..._objects.iptables_words import BUILT_IN_CHAINS
from ..._plan.iptables import ChainPlan, plan
from ..._plan.transaction import Step
from ..interface import Host
from .facilities import tables

_DROPS = re.compile(r"^:\S+ DROP", re.MULTILINE)


class OtherFamily(NamedTuple):
    """One address family in the other variant."""

    tool: Xtables
    chains: Mapping[ChainKey, Rules]
    drops: bool = False
    """Whether a built-in chain has a policy of DROP."""
    unread: str = ""
    """Why it could not be read, as the tools of that variant are not there; then chains are empty."""


class Leftovers(NamedTuple):
    """What is ours in the other variant, with what removes it, by address family."""

    plans: Mapping[str, ChainPlan]
    tools: Mapping[str, Xtables]

    @property
    def changed(self) -> bool:
        return any(one.changed for one in self.plans.values())

    @property
    def before(self) -> str:
        """The lines that are removed, under the name of their tool."""
        return "".join(
            f"# {self.tools[family].command}\n{one.before}" for family, one in self.plans.items() if one.before
        )

    def steps(self) -> list[Step]:
        """Remove it; one step for each family."""
        return [self._step(self.tools[family], one) for family, one in self.plans.items() if one.changed]

    def _step(self, tool: Xtables, one: ChainPlan) -> Step:
        return Step(lambda: tool.restore(one.restore), lambda: tool.restore(one.undo))


def other_families(host: Host) -> dict[str, OtherFamily]:
    """Return what the other variant holds, by address family; a facility of the host, so that it is read once.

    Raises XtablesError for tables that are in use and cannot be read.
    """
    found = {}
    for family, tool in host.facility(tables).items():
        try:
            other = other_variant(tool)
        except NoXtablesError:
            continue  # iptables is not installed: there is no other variant
        if other:
            found[family] = _read(other)
    return found


def _read(other: Xtables) -> OtherFamily:
    try:
        text = other.save_all()
    except NoXtablesError as error:
        return OtherFamily(other, {}, unread=str(error))
    return OtherFamily(other, parse_tables(text), bool(_DROPS.search(text)))


def leftovers(host: Host, prefix: str, ours: Callable[[ChainKey], bool]) -> Leftovers:
    """Return what of the chains with our prefix in the other variant is a dataplane's own. Raises XtablesError."""
    found = host.facility(other_families)
    plans = {family: plan(Desired(), _own(one, prefix, ours)) for family, one in found.items()}
    return Leftovers(plans, {family: one.tool for family, one in found.items()})


def other_variant_warnings(host: Host, prefix: str, families: Collection[str]) -> list[str]:
    """Return a line for each of these address families in which the other variant holds rules that are not ours."""
    found = [
        (COMMANDS[family], one) for family, one in sorted(host.facility(other_families).items()) if family in families
    ]
    return [
        f"not checked, since it could not be read: {one.unread}"
        if one.unread
        else f"iptables: the {one.tool.command.rpartition('-')[2]} variant, which this host's {command} is not of, holds rules, too "
        f"({one.tool.command}-save shows them): what they drop is dropped, and what both translate is for the kernel to choose: "
        "keep all rules in one variant"
        for command, one in found
        if one.unread or one.drops or _has_rules_of_others(one, prefix)
    ]


def _own(one: OtherFamily, prefix: str, ours: Callable[[ChainKey], bool]) -> Observed:
    chains = {key: rules for key, rules in one.chains.items() if key[1].startswith(prefix + "-") and ours(key)}
    return Observed(
        chains, {key: rules for key, rules in one.chains.items() if key[1] in BUILT_IN_CHAINS.get(key[0], ())}
    )


def _has_rules_of_others(one: OtherFamily, prefix: str) -> bool:
    start = prefix + "-"
    return any(
        not (target_of(rule) or "").startswith(start)
        for (dummy, chain), rules in one.chains.items()
        if not chain.startswith(start)
        for rule in rules
    )
