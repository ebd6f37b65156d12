# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of the ipvs dataplane leaves for the next one: what it was asked for, and a fingerprint of what the node held behind it.

The file has two lines, each with a checksum: what every run needs, and the services, which only a run needs that is asked for others.
What is damaged, of other settings or of an older version is as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._model.payload import digest_of, texts_of
from ..._model.request import Request
from ..._model.service import Node
from ..._model.service_facts import ServiceFacts
from ..interface import Host
from ..records import RecordFile, facts_of_plain, framed, from_line, plain_facts, require, to_line

_VERSION = 1
"""Raised by hand whenever the same services compile to something else, so that what an older release left is not believed."""


class Fingerprint(NamedTuple):
    """All that a node holds of this dataplane, as a run can read it fast."""

    ipvs: int  # the sum of the virtual services' numbers
    sets: str  # a digest of sets
    rest: str  # a digest of rules, addresses and settings


class Record(NamedTuple):
    """What the last run left."""

    asked: str
    settings: str
    fingerprint: Fingerprint
    has_udp: bool
    facts: ServiceFacts
    """Of all services; of their addresses none that the node has itself."""


def settings_digest(node: Node) -> str:
    """Return a digest of all that the same services depend on."""
    return hashlib.sha256(json.dumps([_VERSION, node]).encode()).hexdigest()


def digest_of_request(request: Request, node: Node) -> str:
    """Return a digest of all that a run's outcome depends on."""
    parts = [settings_digest(node), digest_of(request.services), request.state, request.exclusive]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def encode(record: Record, services: Sequence[Any]) -> str:
    """Return the file's text. Services that came as a text are not written anew."""
    header = to_line({**record._asdict(), "facts": plain_facts(record.facts)})
    return header + framed(f"[{','.join(texts_of(services))}]")


def decode_record(text: str) -> Record | None:
    """Return what the first line says, None where it cannot be believed."""
    try:
        raw = from_line(text.split("\n")[0])
        ipvs, sets, rest = raw["fingerprint"]
        return Record(
            raw["asked"],
            raw["settings"],
            Fingerprint(require(int, ipvs), require(str, sets), require(str, rest)),
            bool(raw["has_udp"]),
            facts_of_plain(raw["facts"]),
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def decode_services(text: str) -> list[Any] | None:
    """Return what the second line says, None where it cannot be believed."""
    try:
        found = from_line(text.split("\n")[1])
    except (ValueError, IndexError):
        return None
    return found if isinstance(found, list) else None


def store(dummy: Host) -> RecordFile:
    """Return the file of this network namespace."""
    return RecordFile("ipvs")


class Difference(NamedTuple):
    """What is asked for otherwise than before: the services that differ, as they were and as they are to be, and the others."""

    before: list[Mapping[str, Any]]
    after: list[Mapping[str, Any]]
    kept: list[Mapping[str, Any]]


def difference(before: Sequence[Any], after: Sequence[Any]) -> Difference | None:
    """Return what differs; None unless both have the same names, each once."""
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in [*before, *after]):
        return None
    had, has = ({one["name"]: one for one in services} for services in (before, after))
    if len(had) != len(before) or len(has) != len(after) or had.keys() != has.keys():
        return None
    names = [name for name, one in has.items() if had[name] != one]
    differing = set(names)
    kept = [one for name, one in has.items() if name not in differing]
    return Difference([had[name] for name in names], [has[name] for name in names], kept)
