# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files in which runs leave what the next ones need not read, and what those of all dataplanes have in common.

What is in such a file is the affair of its dataplane. Whatever is missing, damaged or not what its reader expects is as if there
were no file.
"""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any

from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, remove_file, write_file
from .._kernel.rules_state import namespace_name
from .._model.service_facts import ServiceFacts

_OLD = 30 * 24 * 3600


class RecordFile:
    """A file of this network namespace. What cannot be written is not kept."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> str:
        """Return the text, empty where there is none."""
        try:
            return (read_file(self._path()) or b"").decode()
        except (FileError, OSError, ValueError):
            return ""

    def save(self, text: str) -> None:
        """Leave this for the next run."""
        try:
            ensure_directory(RUN_DIRECTORY)
            write_file(self._path(), text)
            _remove_old()
        except (FileError, OSError):
            self.forget()

    def forget(self) -> None:
        """Leave nothing."""
        try:
            remove_file(self._path())
        except (FileError, OSError):
            return

    def _path(self) -> Path:
        return RUN_DIRECTORY / f"{namespace_name()}-{self._name}.json"


def _remove_old() -> None:
    """Remove the files of namespaces that may be gone, which nothing tells; it costs one that lives on a run that reads everything."""
    for path in RUN_DIRECTORY.glob("*.json"):
        if path.stat().st_mtime < time.time() - _OLD:
            path.unlink()


def checksum(text: str) -> str:
    """Return what tells a text from a damaged one."""
    return f"{zlib.crc32(text.encode()):08x}"


def to_line(values: Any) -> str:
    """Return values as JSON on a line of their own, behind its checksum."""
    return framed(json.dumps(values, separators=(",", ":")))


def framed(text: str) -> str:
    """Return the same of what is JSON already."""
    return f"{checksum(text)} {text}\n"


def from_line(line: str) -> Any:
    """Return the values of a line, without its end. Raises ValueError for one that `to_line` did not make."""
    told, dummy, text = line.partition(" ")
    if told != checksum(text):
        raise ValueError("the checksum is of another text")
    return json.loads(text)


def plain_facts(facts: ServiceFacts) -> Any:
    """Return facts as values that JSON knows."""
    return [sorted(value) if isinstance(value, frozenset) else value for value in facts]


def facts_of_plain(plain: Any) -> ServiceFacts:
    """Return what `plain_facts` was made of. Raises TypeError or ValueError for anything else."""
    families, local, has_node_port, addresses, unmasqueraded, warnings, own_ports = plain
    return ServiceFacts(
        frozenset(texts(families)),
        frozenset(texts(local)),
        require(bool, has_node_port),
        frozenset(texts(addresses)),
        frozenset(texts(unmasqueraded)),
        tuple(texts(warnings)),
        tuple(texts(own_ports)),
    )


def require(kind: type, *values: Any) -> Any:
    """Return the first of values of one type. Raises TypeError where one is of another."""
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return values[0]


def texts(values: Any) -> list[str]:
    """Return a list of texts. Raises TypeError for anything else."""
    require(list, values)
    if values:
        require(str, *values)
    return list(values)
