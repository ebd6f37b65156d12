# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The numbers of services and backends with session affinity, which connections are remembered by. Pure.

A number is a hash of the name, and of the backend's endpoint. Where two hashes are the same, the later in the order of names takes the
next hash of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.service import Service


class Numbers(NamedTuple):
    """1 to 2**32 - 1, none of them twice."""

    services: dict[str, int]  # by name
    backends: dict[tuple[str, str, int], int]  # by name of the service, address and port


def number_services(services: Iterable[Service], others: Collection[int] = ()) -> Numbers:
    """Return the numbers of those services that have session affinity. others: the numbers of services that stay as they are."""
    numbers = Numbers({}, {})
    taken = {0, *others}
    for service in sorted(one for one in services if one.session_affinity == "client_ip"):
        numbers.services[service.name] = _free(service.name, taken)
        for backend in service.backends:
            name = f"{service.name} {ip.endpoint(backend.address, backend.port)}"
            numbers.backends[service.name, backend.address, backend.port] = _free(name, taken)
    return numbers


def _free(text: str, taken: set[int]) -> int:
    attempt = 0
    while True:
        digest = blake2b(f"{text} {attempt}".encode(), digest_size=4).digest()
        found = int.from_bytes(digest, "big")
        if found not in taken:
            taken.add(found)
            return found
        attempt += 1
