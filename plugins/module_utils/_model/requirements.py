# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What services ask of the rest of a node: forwarding, a zone, schedulers, rules for backends. Pure.

Input is what users write, not yet validated: what is wrong in it asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .conflicts import ADDRESS_KEYS
from .service import DEFAULT_FORWARD_METHOD, DEFAULT_SCHEDULER


def find_needs(services: Sequence[Any], node: str) -> dict[str, Any]:
    """In the types of JSON. node: by its name; the addresses of backends are those of backends on it."""
    given = [one for one in services if isinstance(one, dict)]
    backends = [backend for one in given for backend in _list(one, "backends") if isinstance(backend, dict)]
    addresses = [address for one in given for key in ADDRESS_KEYS for address in _list(one, key)]
    return {
        "ipv6": any(":" in str(address) for address in [*addresses, *(one.get("address") for one in backends)]),
        "zone": any(one.get("traffic_distribution") == "prefer_zone" for one in given),
        "schedulers": _values(given, "scheduler", DEFAULT_SCHEDULER),
        "forward_methods": _values(given, "forward_method", DEFAULT_FORWARD_METHOD),
        "backend_addresses": sorted({str(one.get("address")) for one in backends if one.get("node") == node != ""}),
    }


def backends_by_node(services: Sequence[Any]) -> dict[str, list[str]]:
    """The addresses of the backends that have a node, by its name; in the order in which they are written, each once."""
    found: dict[str, dict[str, None]] = {}
    for service in services:
        for backend in _list(service, "backends") if isinstance(service, dict) else ():
            if isinstance(backend, dict) and backend.get("node"):
                found.setdefault(str(backend["node"]), {})[str(backend.get("address"))] = None
    return {node: list(addresses) for node, addresses in found.items()}


def _list(one: Mapping[str, Any], key: str) -> Iterator[Any]:
    found = one.get(key)
    yield from found if isinstance(found, (list, tuple)) else [] if found is None else [found]


def _values(services: Sequence[Mapping[str, Any]], key: str, default: str) -> list[str]:
    return sorted({str(one.get(key) or default) for one in services})
