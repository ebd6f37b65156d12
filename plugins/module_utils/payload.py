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
from typing import Any, List, NamedTuple, Sequence

_FASTEST = 1


class Payload(NamedTuple):
    """digest: of what the body holds."""

    digest: str
    body: str


def pack(services: Sequence[Any]) -> Payload:
    """Raises TypeError for what JSON does not know."""
    text = json.dumps(services, sort_keys=True, separators=(",", ":")).encode()
    return Payload(hashlib.sha256(text).hexdigest(), base64.b64encode(zlib.compress(text, _FASTEST)).decode())


def unpack(body: str) -> List[Any]:
    """Raises ValueError for what `pack` did not make."""
    try:
        found = json.loads(zlib.decompress(base64.b64decode(body)))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, list):
        raise ValueError("no list")
    return found
