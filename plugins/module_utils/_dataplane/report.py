# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of its services, as a module reports it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    """What is refused, and where."""

    address: str | None
    """None for the node port."""
    port: int
    verdict: str
    """``reject`` or ``drop``."""
    reason: str
    """In the words of the rule."""


def as_dicts(services: Iterable[Any]) -> list[dict[str, Any]]:
    """Return services that were read back, named tuples of each dataplane, as dicts."""
    return [
        {
            **service._asdict(),
            "backends": [backend._asdict() for backend in service.backends],
            "refusals": [refusal._asdict() for refusal in service.refusals],
        }
        for service in services
    ]
