# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""iptables chains as values: those that are wanted, and those that the kernel holds, for one address family. Pure.

Rules are iptables rule specifications in the spelling of ``iptables-save``, without ``-A CHAIN``; two rules are equal
when their texts are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .iptables_text import unquoted

ChainKey = tuple[str, str]
"""A table and the name of a chain in it."""

Rules = Sequence[str]

COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}
"""The tool of each address family."""

_TARGET = re.compile(r"(?:^| )-[jg] ([^ ]+)")


@dataclass(frozen=True)
class Jump:
    """A rule in a chain that is not ours, leading to one that is.

    position: ``first`` or ``last``, the end of the chain at which a missing jump is put.
    anchored: whether a jump that is there must also stand at that end. It does as long as nothing but jumps
    to user-defined chains stands before (``first``) or behind it (``last``), so that two tools which both want
    to be first do not fight.
    overtakes: whether it is put in front again where rules before it drop by default (`_plan.iptables_order`).
    behind: chains; a jump that is to be first stands behind those to these, where they are in the same hook.
    """

    table: str
    hook: str
    rule: str
    position: str = "first"
    anchored: bool = False
    overtakes: bool = False
    behind: tuple[str, ...] = ()


@dataclass
class Desired:
    """The whole of what is ours: every chain with its rules, and the jumps that lead to them.

    unmanaged: those of the chains to which all jumps that there are stay as they are.
    """

    chains: dict[ChainKey, Rules] = field(default_factory=dict)
    jumps: list[Jump] = field(default_factory=list)
    unmanaged: set[ChainKey] = field(default_factory=set)


@dataclass
class Observed:
    """What the kernel holds: our chains, and all rules of the hooks, chains of others with jumps to ours.

    others: further chains of others, as far as they are known.
    """

    chains: dict[ChainKey, Rules] = field(default_factory=dict)
    hooks: dict[ChainKey, Rules] = field(default_factory=dict)
    others: dict[ChainKey, Rules] = field(default_factory=dict)


def target_of(rule: str) -> str | None:
    """The target of a rule (``-j`` or ``-g``); None when it has none. Quoted text is not searched."""
    found = _TARGET.search(unquoted(rule))
    return found.group(1) if found else None
