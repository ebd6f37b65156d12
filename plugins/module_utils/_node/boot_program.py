# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's program: this collection's own code as one file that Python runs (zipapp), made of what Ansible has shipped."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pkgutil import walk_packages
from typing import Any, cast
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from .boot_generations import BootError

_PACKAGE = __name__.rpartition("._node.")[0]
_NAME = "layer4_service_proxy"
"""What the package is called in the program."""
_USUAL = "/usr/bin/python3"
_PLAIN = re.compile(r"(/[A-Za-z0-9._+-]+)+")
_LONGEST = 120
"""Characters of an interpreter's path in a first line (execve(2))."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = f"""\
import sys

if sys.argv[1:2] == ["boot"]:
    from {_NAME}._node.boot_restore import main
else:
    from {_NAME}._node.command import main
main()
"""


@cache
def build() -> bytes:
    """Return the program, always the same for the same code and interpreter. Raises BootError."""
    found = BytesIO()
    found.write(f"#!{_interpreter()} -IS\n".encode())
    with ZipFile(found, "w", ZIP_STORED) as archive:
        for path, source in sorted(_sources().items()):
            archive.writestr(ZipInfo(path, _EPOCH), source)
    return found.getvalue()


def _interpreter() -> str:
    """The one that runs this, by the name that outlives an upgrade of the host where that leads to it."""
    if os.path.realpath(_USUAL) == os.path.realpath(sys.executable):
        return _USUAL
    if not _PLAIN.fullmatch(sys.executable) or len(sys.executable) > _LONGEST:
        raise BootError(
            f"ansible_python_interpreter is {sys.executable!r}: its path cannot stand in a program's first line"
        )
    return sys.executable


def _ship() -> None:
    """Have Ansible send along what the program begins with: it looks for imports in functions, too, and this one is never called."""
    from . import command  # noqa: F401  # pylint: disable=import-outside-toplevel,unused-import


def _sources() -> dict[str, str]:
    """The text of each file by its path in the program."""
    package = sys.modules[_PACKAGE]
    found = {"__main__.py": _MAIN, f"{_NAME}/__init__.py": ""}
    for module in walk_packages(package.__path__, _PACKAGE + "."):
        path = _NAME + module.name[len(_PACKAGE) :].replace(".", "/")
        if module.ispkg:
            found[f"{path}/__init__.py"] = ""
        else:
            found[f"{path}.py"] = _source(module.name)
    return found


def _source(name: str) -> str:
    spec = find_spec(name)
    source = cast(Any, spec.loader).get_source(name) if spec and spec.loader else None
    if source is None:
        raise BootError(f"{name} has no source: the node's program cannot be made")
    return str(source)
