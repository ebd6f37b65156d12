# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of systemd that belong to the collection: their files, links that enable them, and whether they run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._kernel.process import Runner
from .change import Change, NodeError, lines
from .files import File, Link, Wanted, plan_files

_DIRECTORY = "/etc/systemd/system"
_RUNNING = "/run/systemd/system"
"""There where systemd runs (sd_booted(3))."""


class Unit(NamedTuple):
    """A unit as it is to be."""

    name: str
    text: str
    wanted_by: str | None
    """The target that starts it at boot."""
    started: bool
    """Whether it is to be active from now on; one that a timer starts is left alone, active or not."""


def has_systemd() -> bool:
    """Return whether systemd runs on this host."""
    return os.path.isdir(_RUNNING)


def quoted_word(word: str) -> str:
    """Return a word of a command in a unit, with all that systemd would interpret escaped (systemd.service(5))."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if escaped and _PLAIN.issuperset(escaped) else f'"{escaped}"'


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")


def plan_units(name: str, units: Sequence[Unit], known: Mapping[str, str | None], runner: Runner) -> Change:
    """Return what makes these units as wanted, and removes those of `known` that are not.

    known: all units that this may concern, each with the target that would start it. Where systemd does not run, none is wanted.
    """
    wanted = {unit.name: unit for unit in units} if has_systemd() else {}
    entries: dict[str, Wanted] = {}
    for unit_name, target in known.items():
        unit = wanted.get(unit_name)
        path = f"{_DIRECTORY}/{unit_name}"
        entries[path] = File(unit.text) if unit else None
        if target:
            entries[f"{_DIRECTORY}/{target}.wants/{unit_name}"] = Link(path) if unit else None
    files = plan_files(name, entries)
    active = _active(sorted(known), runner) if has_systemd() and (wanted or files.changed) else set()
    to_stop = sorted(active - set(wanted))
    to_start = sorted({unit.name for unit in wanted.values() if unit.started} - active)

    def apply() -> None:
        _systemctl(runner, "stop", to_stop)
        files.apply()
        if files.changed and has_systemd():
            _systemctl(runner, "daemon-reload", None)
            _forget_failures(sorted(set(known) - set(wanted)), runner)
        _systemctl(runner, "start", to_start)

    stopped = [f"{one} active" for one in to_stop]
    started = [f"{one} active" for one in to_start]
    return Change(name, files.before + lines(stopped), files.after + lines(started), apply)


def _active(names: Sequence[str], runner: Runner) -> set[str]:
    """Return those of the units that are active. Raises NodeError."""
    code, out, err = runner.run(["systemctl", "is-active", *names])
    states = out.split()
    if len(states) != len(names):
        raise NodeError(f"systemctl is-active: {' '.join(err.split()) or code}")
    return {name for name, state in zip(names, states) if state in ("active", "activating", "reloading")}


def _forget_failures(removed: Sequence[str], runner: Runner) -> None:
    """Have systemd no longer list units that failed and are removed; it refuses those that it does not know, which is as well."""
    if removed:
        runner.run(["systemctl", "reset-failed", *removed])


def _systemctl(runner: Runner, verb: str, names: Sequence[str] | None) -> None:
    if names is not None and not names:
        return
    code, _out, err = runner.run(["systemctl", verb, *(names or ())])
    if code:
        raise NodeError(f"systemctl {' '.join([verb, *(names or ())])}: {' '.join(err.split())}")
