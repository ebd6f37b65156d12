# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which chains of the roles bridge and backend were as wanted when they were last read, and whether any rule has changed since.

Reading them takes a process for each built-in chain that may lead to them; the kernel's count of changes takes one message.
It is only a shortcut: what is missing, cannot be read or is not certain is as if nothing had been left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, write_file
from .._kernel.rules_state import namespace_name

State = Callable[[], str]
"""Returns a text that the rules have only as long as nobody changes one; empty where nothing tells."""


class SettledChains:
    """What runs leave in a directory, for this network namespace."""

    def __init__(self, state: State, directory: Path = RUN_DIRECTORY, name: State = namespace_name) -> None:
        self._state, self._directory = state, directory
        self._seen = state()
        try:
            self._path: Path | None = directory / f"chains-{name()}"
        except OSError:
            self._path = None
        self._left = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads((self._path and read_file(self._path)) or b"{}")
        except (FileError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def are_as_wanted(self, part: str, wanted: object) -> bool:
        """Tell whether these chains were as wanted in the state of now. wanted: its repr says all of it."""
        return bool(self._seen) and self._left.get(part) == [self._seen, _digest(wanted)]

    def keep(self, part: str, wanted: object) -> None:
        """Remember that these chains, read since this was made, are as wanted, unless somebody has changed rules meanwhile."""
        if not self._seen or self._path is None or self._state() != self._seen:
            return
        self._left[part] = [self._seen, _digest(wanted)]
        with suppress(FileError):
            ensure_directory(self._directory)
            write_file(self._path, json.dumps(self._left))


def _digest(wanted: object) -> str:
    return hashlib.sha256(repr(wanted).encode("utf-8", "surrogateescape")).hexdigest()
