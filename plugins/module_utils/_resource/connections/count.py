# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many connections lead to backends. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..._objects.conntrack import Flow


class Destination(NamedTuple):
    """Where a backend serves; the address in canonical spelling."""

    address: str
    port: int
    protocol: str


def count_connections(flows: Iterable[Flow], backends: Sequence[Destination]) -> list[int]:
    """For each backend the connections that were led to it by translation and are not over."""
    found: dict[Destination, int] = Counter(
        Destination(*flow.reply_source, flow.protocol) for flow in flows if flow.live and flow.translated
    )
    return [found[backend] for backend in backends]
