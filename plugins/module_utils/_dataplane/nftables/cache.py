# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves so that the next one, if it is asked for the same, need not look: a digest, and the generation of the ruleset.

Whatever is missing, damaged or not certain any more is as if there were nothing: then the kernel is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, remove_file, write_file
from ..._kernel.rules_state import namespace_name
from ..._model.payload import digest_of
from ..._model.request import Request
from ..._model.service import Node
from ..._model.service_facts import ServiceFacts
from ..interface import Host

_VERSION = 3
"""Raised by hand whenever the same services compile to something else, so that what an older release left is not believed."""


class Record(NamedTuple):
    """What the last run left."""

    asked: str
    generation: int
    """Of the ruleset behind that run: any change of any table makes it another."""
    has_udp: bool
    facts: ServiceFacts


def digest_of_request(request: Request, node: Node) -> str:
    """Return a digest of all that a run's outcome depends on."""
    parts = [_VERSION, digest_of(request.services), request.state, request.exclusive, node]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Store:
    """The file of this network namespace. What cannot be written is not kept."""

    def load(self) -> Record | None:
        try:
            raw = json.loads(read_file(self._path()) or b"")
            return Record(raw["asked"], int(raw["generation"]), bool(raw["has_udp"]), _to_facts(raw["facts"]))
        except (FileError, OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, record: Record) -> None:
        raw = {**record._asdict(), "facts": [_plain(part) for part in record.facts]}
        try:
            ensure_directory(RUN_DIRECTORY)
            write_file(self._path(), json.dumps(raw))
        except (FileError, OSError):
            self.forget()

    def forget(self) -> None:
        try:
            remove_file(self._path())
        except (FileError, OSError):
            return

    def _path(self) -> Path:
        return RUN_DIRECTORY / f"{namespace_name()}-nftables.json"


def store(dummy: Host) -> Store:
    return Store()


def _plain(part: Any) -> Any:
    return sorted(part) if isinstance(part, frozenset) else part


def _to_facts(parts: Sequence[Any]) -> ServiceFacts:
    families, local, has_node_port, addresses, unmasqueraded, warnings, own_ports = parts
    return ServiceFacts(
        frozenset(families),
        frozenset(local),
        bool(has_node_port),
        frozenset(addresses),
        frozenset(unmasqueraded),
        tuple(warnings),
        tuple(own_ports),
    )
