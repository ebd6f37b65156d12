# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long lists of services as one opaque text on their way from the controller to a node. Pure.

Ansible looks into every value of a task's arguments several times, and sends them back in the result. A text is one value.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

_FASTEST = 1


class Payload(NamedTuple):
    """digest: of what the body holds."""

    digest: str
    body: str


def to_text(services: Sequence[Any]) -> str:
    """The same for services that are written in another order of their keys. Raises TypeError for what JSON does not know."""
    return json.dumps(services, sort_keys=True, separators=(",", ":"))


def digest_of(services: Sequence[Any]) -> str:
    """That of `pack`. Raises TypeError for what JSON does not know."""
    return _digest(to_text(services).encode())


def packed(text: str) -> Payload:
    """Of what `to_text` gives."""
    plain = text.encode()
    return Payload(_digest(plain), base64.b64encode(zlib.compress(plain, _FASTEST)).decode())


def pack(services: Sequence[Any]) -> Payload:
    """Raises TypeError for what JSON does not know."""
    return packed(to_text(services))


def unpack(body: str) -> list[Any]:
    """Raises ValueError for what `pack` did not make."""
    try:
        found = json.loads(zlib.decompress(base64.b64decode(body)))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, list):
        raise ValueError("no list")
    return found


def _digest(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()
