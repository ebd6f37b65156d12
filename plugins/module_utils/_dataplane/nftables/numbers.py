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
from ..._model.service import Backend, Service


class Numbers(NamedTuple):
    """1 to 2**32 - 1, none of them twice."""

    services: dict[str, int]  # by name
    backends: dict[tuple[str, str, int], int]  # by name of the service, address and port


def number_services(services: Iterable[Service], others: Collection[int] = ()) -> Numbers:
    """Return the numbers of those services that have session affinity. others: the numbers of services that stay as they are."""
    numbers = Numbers({}, {})
    taken = {0, *others}
    for service in sorted(filter(_is_numbered, services)):
        numbers.services[service.name] = _free(service.name, taken)
        for backend in service.backends:
            number = _free(_backend_text(service, backend), taken)
            numbers.backends[service.name, backend.address, backend.port] = number
    return numbers


def first_numbers(services: Iterable[Service]) -> set[int] | None:
    """Return the numbers of these services and their backends, if each has the first hash of its own; else None."""
    numbered = list(filter(_is_numbered, services))
    texts = [one.name for one in numbered]
    texts += [_backend_text(one, backend) for one in numbered for backend in one.backends]
    found = {_hash(text, 0) for text in texts}
    return found if len(found) == len(texts) and 0 not in found else None


def _is_numbered(service: Service) -> bool:
    return service.session_affinity == "client_ip"


def _backend_text(service: Service, backend: Backend) -> str:
    return f"{service.name} {ip.endpoint(backend.address, backend.port)}"


def _free(text: str, taken: set[int]) -> int:
    attempt = 0
    while (found := _hash(text, attempt)) in taken:
        attempt += 1
    taken.add(found)
    return found


def _hash(text: str, attempt: int) -> int:
    return int.from_bytes(blake2b(f"{text} {attempt}".encode(), digest_size=4).digest(), "big")
