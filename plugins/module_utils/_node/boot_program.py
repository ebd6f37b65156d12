# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's program: this collection's own code as one file that Python runs (zipapp)."""

from __future__ import annotations

import os
import re
import sys
from functools import cache

from . import shipped_code
from .boot_generations import BootError

_USUAL = "/usr/bin/python3"
_PLAIN = re.compile(r"(/[A-Za-z0-9._+-]+)+")
_LONGEST = 120
"""Characters of an interpreter's path in a first line (execve(2))."""


@cache
def build() -> bytes:
    """Return the program, always the same for the same code and interpreter. Raises BootError."""
    return f"#!{_interpreter()} -IS\n".encode() + shipped_code.archive()


def _interpreter() -> str:
    """The one that runs this, by the name that outlives an upgrade of the host where that leads to it."""
    if os.path.realpath(_USUAL) == os.path.realpath(sys.executable):
        return _USUAL
    if not _PLAIN.fullmatch(sys.executable) or len(sys.executable) > _LONGEST:
        raise BootError(
            f"ansible_python_interpreter is {sys.executable!r}: its path cannot stand in a program's first line"
        )
    return sys.executable
