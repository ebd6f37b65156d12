# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's systemd, by systemctl(1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .._kernel.files import FileError
from .._kernel.process import run_tool

_RUNS = Path("/run/systemd/system")


class Systemd:
    """Raises FileError, one line, for what it refuses."""

    @classmethod
    def of_host(cls, root: Path) -> Systemd | None:
        """Return None where systemd does not run, or where root is not the host's own."""
        return cls() if root == Path("/") and _RUNS.is_dir() else None

    def active(self, units: Sequence[str]) -> frozenset[str]:
        """Return those of the units that are active."""
        _code, stdout, _stderr = run_tool(["systemctl", "is-active", *units])
        return frozenset(unit for unit, state in zip(units, stdout.split()) if state == "active")

    def run(self, command: str, units: Iterable[str] = ()) -> None:
        """Carry out a command of systemctl."""
        argv = ["systemctl", command, *units]
        code, stdout, stderr = run_tool(argv)
        if code != 0:
            said = " ".join((stderr or stdout).split())
            raise FileError(f"{' '.join(argv)}: {said or 'failed without a message'}")
