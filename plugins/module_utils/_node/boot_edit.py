# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What services need at boot, from the files of the last run and the few services that differ since.

To compile ten thousand services for one that has changed takes longer than the change itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._dataplane import registry
from .._model.service import Node, parse_services
from .._objects.boot import BootState
from .._objects.iptables import COMMANDS, Desired
from .boot import Kept
from .boot_files import JUMPS, SYSCTLS, parse_rules
from .boot_generations import BootError, Generation
from .boot_parts import made_of
from .given import Given, drained_then, without_drained

_PART = "services"
_READ = {SYSCTLS, *(command + kind for command in COMMANDS.values() for kind in ("", JUMPS))}
"""Files of which all is known from their text, and from the node's settings."""
_FEWEST_KEPT = 0.75
"""Of all services: to compile more than a quarter anew saves nothing."""


def edited_state(kept: Kept, held: Given | None, given: Given, drained: Sequence[str], node: Node) -> BootState | None:
    """Return the state of a node's services behind a run; None where all have to be compiled for it.

    held: what the node was last given. drained: backends behind the run.
    """
    generation = kept.generation
    if held is None or generation is None or _PART not in generation.parts:
        return None
    before = drained_then(held, kept.asked)
    part = generation.parts[_PART]
    if part.made_of != made_of(held, before, node, kept.program) or not part.files.keys() <= _READ:
        return None
    old, new = (_by_name(one, out) for one, out in ((held, before), (given, drained)))
    changed = [raw for name, raw in new.items() if old.get(name) != raw]
    names = {raw["name"] for raw in changed} | (old.keys() - new.keys())
    if len(names) > (1 - _FEWEST_KEPT) * len(old):
        return None
    dataplane = registry.load(given.settings["dataplane"])
    desired = dataplane.compile(parse_services(changed, node, dataplane.problems), node)
    try:
        return dataplane.edited(_read(generation), desired, names, node)
    except BootError:
        return None


def _by_name(given: Given, drained: Sequence[str]) -> dict[str, Any]:
    return {raw["name"]: raw for raw in without_drained(given.services, drained)}


def _read(generation: Generation) -> BootState:
    """Return the rules of a generation. Raises BootError for a file that is not as it was written."""
    files = generation.parts[_PART].files
    return BootState(
        rules={
            family: Desired(parse_rules(generation.read(_PART, command).decode("utf-8", "surrogateescape")))
            for family, command in COMMANDS.items()
            if command in files
        }
    )
