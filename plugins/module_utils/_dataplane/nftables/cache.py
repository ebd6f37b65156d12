# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves so that the next one looks only at what is asked for differently: what it was asked for, and the generation of
the ruleset behind it.

Of services their text, from which their elements follow, and what they have in common (`counts`). Whatever is missing, damaged or not
certain any more is as if there were nothing: then the kernel is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from ..._model.payload import digest_of
from ..._model.request import Request
from ..._model.service import Node
from ..interface import Host
from ..records import RecordFile, checksum
from .counts import Counts, from_plain, plain

_VERSION = 3
"""Raised by hand whenever the same services compile to something else, so that what an older release left is not believed."""


class Record(NamedTuple):
    """What the last run left."""

    settings: str
    """A digest of all that elements depend on beside services."""
    asked: str
    """A digest of what was asked for; empty if the node has other services too."""
    generation: int
    """Of the ruleset behind that run: any change of any table makes it another."""
    tables: str
    """A digest of our tables; empty as long as nobody else has changed the ruleset."""
    numbers: Sequence[int]
    """Of services with session affinity and their backends, each the first of its own."""
    counts: Counts
    texts: Sequence[str]
    """A line for each service (`_model.payload`)."""


def digest_of_settings(node: Node) -> str:
    """Return a digest of all that elements depend on beside services."""
    return hashlib.sha256(json.dumps([_VERSION, node]).encode()).hexdigest()


def digest_of_request(request: Request) -> str:
    """Return a digest of all that is asked for."""
    parts = [digest_of(request.services), request.state, request.exclusive]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Store:
    """The record of this network namespace. What cannot be written is not kept."""

    def __init__(self) -> None:
        self._file = RecordFile("nftables")

    def load(self) -> Record | None:
        return decode(self._file.load())

    def save(self, record: Record) -> None:
        self._file.save(encode(record))

    def forget(self) -> None:
        self._file.forget()


def store(dummy: Host) -> Store:
    return Store()


def encode(record: Record) -> str:
    """Return the text of a record: its checksum, all but the services, then these, each in lines of their own."""
    values = [*record[:5], plain(record.counts)]
    text = "\n".join([json.dumps(values, separators=(",", ":")), *record.texts])
    return f"{checksum(text)}\n{text}"


def decode(text: str) -> Record | None:
    """Return the record of a text; None for a text that `encode` did not make."""
    told, dummy, rest = text.partition("\n")
    if told != checksum(rest):
        return None
    first, *texts = rest.split("\n")
    try:
        settings, asked, generation, tables, numbers, counts = json.loads(first)
        return Record(settings, asked, generation, tables, numbers, from_plain(counts), texts)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
