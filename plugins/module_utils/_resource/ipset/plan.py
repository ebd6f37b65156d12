# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One ipset: observe, plan; and who uses a set that cannot be removed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Callable

from ..._kernel.ipset import Ipset
from ..._kernel.iptables import Xtables, XtablesError
from ..._objects.ipset import HeldSet, InvalidSetError, Wanted
from ..._objects.iptables_text import logical_lines
from ..._objects.iptables_words import BUILT_IN_CHAINS
from ..._plan.ipset import SetInUseError, SetPlan, plan_absent, plan_leftover, plan_present, scratch_name
from .request import SetRequest, entries_to_remove, wanted_set

_SHOWN_USERS = 5

Warn = Callable[[str], None]


def plan_set(request: SetRequest, sets: Ipset, check_mode: bool, warn: Warn) -> SetPlan:
    """Everything up to applying. Raises InvalidSetError, SetInUseError and IpsetError."""
    held = sets.read(request.name)
    plan = _plan(request, held, sets, warn if check_mode else None)
    leftover = plan_leftover(sets.read(scratch_name(request.name)))
    return SetPlan(leftover.steps + plan.steps, leftover.before + plan.before, leftover.after + plan.after)


def _plan(request: SetRequest, held: HeldSet | None, sets: Ipset, warn: Warn | None) -> SetPlan:
    if not request.present:
        return plan_absent(held, entries_to_remove(request, held))
    wanted = wanted_set(request, held)
    if wanted.header.type == "list:set":
        _check_members(wanted, sets.headers(), warn)
    return plan_present(wanted, held)


def _check_members(wanted: Wanted, existing: Mapping[str, HeldSet], warn: Warn | None) -> None:
    """Members must be sets of other types. warn: told, in place of failing, of those that do not exist yet."""
    name = wanted.header.name
    problems, missing = [], []
    for member in wanted.entries:
        if member == name or (member in existing and existing[member].header.type == "list:set"):
            problems.append(f'set "{name}": member "{member}" has type list:set: must be a set of another type')
        elif member not in existing:
            missing.append(f'set "{name}": member "{member}" does not exist: must be the name of a set')
    if warn is None:
        problems += missing
    elif missing:
        warn("\n".join(missing))
    if problems:
        raise InvalidSetError(problems)


def describe_users(error: SetInUseError, sets: Ipset, tables: Iterable[Xtables]) -> str:
    """The error with the sets and iptables rules that use the set, as far as they are found."""
    users = _lists_with(error.name, sets)
    for xtables in tables:
        users += _rules_with(error.name, xtables)
    shown = users[:_SHOWN_USERS] + ([f"and {len(users) - _SHOWN_USERS} more"] if len(users) > _SHOWN_USERS else [])
    return ": ".join([str(error), "; ".join(shown)]) if shown else str(error)


def _lists_with(name: str, sets: Ipset) -> list[str]:
    lists = [sets.read(other) for other, held in sets.headers().items() if held.header.type == "list:set"]
    return [f"list:set {held.header.name}" for held in lists if held is not None and name in held.entries]


def _rules_with(name: str, xtables: Xtables) -> list[str]:
    uses = re.compile(rf'(?:--match-set|--add-set|--del-set|--map-set) "?{re.escape(name)}"? ')
    found = []
    for table in BUILT_IN_CHAINS:
        try:
            lines = logical_lines(xtables.save(table))
        except XtablesError:
            continue
        found += [
            f"{xtables.command} -t {table} {line}" for line in lines if line.startswith("-A ") and uses.search(line)
        ]
    return found
