# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which virtual services lead to a destination: the kernel's table for people tells it of thousands in a few hundred readings."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from .._model import addresses as ip
from .._objects.ipvs import ServiceKey

_TABLE = Path("/proc/thread-self/net/ip_vs")
_ARROW = "  -> "
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}

Destination = tuple[str, str, int]
"""Protocol, address and port."""


def users(destinations: Collection[Destination], path: Path = _TABLE) -> list[tuple[Destination, ServiceKey]] | None:
    """Return which of these destinations which virtual services have, but those of marks; None where the kernel does not tell."""
    try:
        return list(_users({_text(*one): one for one in destinations}, path.read_text()))
    except OSError:
        return None


def _users(wanted: dict[str, Destination], table: str) -> Iterator[tuple[Destination, ServiceKey]]:
    endpoints = {one.partition(" ")[2] for one in wanted}
    service = protocol = ""
    for line in table.splitlines():
        if not line.startswith(_ARROW):
            service = line
            protocol = line.partition(" ")[0]
            continue
        endpoint = line[len(_ARROW) :].partition(" ")[0]
        if endpoint in endpoints and f"{protocol} {endpoint}" in wanted:
            yield wanted[f"{protocol} {endpoint}"], _key(service)


def _text(protocol: str, address: str, port: int) -> str:
    """A destination as the table has it, behind the protocol of its virtual service."""
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return f"{protocol.upper()} [{packed.hex(':', 2)}]:{port:04X}"
    return f"{protocol.upper()} {socket.inet_aton(address).hex().upper()}:{port:04X}"


def _key(line: str) -> ServiceKey:
    protocol, endpoint = line.split()[:2]
    address, dummy, port = endpoint.rpartition(":")
    if address.startswith("["):
        family, address = ip.IPV6, ip.canonical_address(address.strip("[]"))
    else:
        family, address = ip.IPV4, socket.inet_ntoa(bytes.fromhex(address))
    return ServiceKey(family, _PROTOCOLS[protocol], address, int(port, 16), 0)
