# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What services take for themselves, and where two cannot both have it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import addresses as ip
from .fields import quoted

if TYPE_CHECKING:
    from .service import Service


ADDRESS_KEYS = ("vip", "external_ips", "load_balancer_ips")
"""The keys of a service that are addresses at which it answers."""


class Claim(NamedTuple):
    """What a service takes for itself: a port of an address, or of every node address (``address`` None)."""

    service: str
    key: str
    protocol: str
    address: str | None
    port: int

    def __str__(self) -> str:
        if self.address is None:
            return f"node_port {self.port}/{self.protocol}"
        return f"{self.key} {ip.endpoint(self.address, self.port)}/{self.protocol}"


class BackendOf(NamedTuple):
    """A backend of a service."""

    service: str
    protocol: str
    address: str
    port: int


def claims(service: Service) -> list[Claim]:
    taken = [
        Claim(service.name, key, service.protocol, address, service.port)
        for key in ADDRESS_KEYS
        for address in getattr(service, key)
    ]
    if service.node_port is not None:
        taken.append(Claim(service.name, "node_port", service.protocol, None, service.node_port))
    return taken


def conflicts(taken: Iterable[Claim], node_addresses: Iterable[str]) -> list[str]:
    """One line for each two claims that cannot both hold, naming both services.

    A node port also takes its port of the node's own addresses; two keys of one service may meet there.
    """
    owners: dict[tuple[str, str | None, int], Claim] = {}
    problems = []
    taken = list(taken)
    for claim in taken:
        other = owners.setdefault((claim.protocol, claim.address, claim.port), claim)
        if other is not claim:
            problems.append(_conflict(claim, other))
    own = set(node_addresses)
    for claim in taken:
        node_port = owners.get((claim.protocol, None, claim.port))
        if claim.address in own and node_port and node_port.service != claim.service:
            problems.append(_conflict(claim, node_port) + f" ({claim.address} is an address of this node)")
    return problems


def repeated_names(raw: Sequence[Any]) -> list[str]:
    seen: dict[str, int] = {}
    problems = []
    for index, item in enumerate(raw):
        name = item.get("name") if isinstance(item, (dict, Mapping)) else None
        if not isinstance(name, str):
            continue
        if name in seen:
            problems.append(
                f"service {quoted(name)}: name is {quoted(name)} in services[{seen[name]}] and in services[{index}]: "
                "a name is allowed once"
            )
        seen.setdefault(name, index)
    return problems


def backends_at_services(
    services: Iterable[Service], taken: Iterable[Claim], node_addresses: Iterable[str]
) -> list[str]:
    """One line for each backend at which another service answers: the kernel translates a connection once.

    An address that the node has itself is one at which something may listen, behind no translation, but for node ports.
    """
    own, problems = set(node_addresses), []
    by_endpoint = {(claim.protocol, claim.address, claim.port): claim for claim in taken}
    for service in services:
        for backend in service.backends:
            found = by_endpoint.get((service.protocol, backend.address, backend.port))
            if backend.address in own:
                found = by_endpoint.get((service.protocol, None, backend.port))
            if found and (found.service != service.name or found.key != "vip"):
                at = ip.endpoint(backend.address, backend.port)
                problems.append(
                    f"service {quoted(service.name)}: backends has {at}, which is {found.key} of service {quoted(found.service)}: "
                    "must be backends of that service, since a connection is translated once"
                )
    return problems


def endpoints_of(taken: Iterable[Claim], node_addresses: Collection[str]) -> set[tuple[str, str, int]]:
    """Return the protocols, addresses and ports at which claims answer."""
    return {
        (claim.protocol, address, claim.port)
        for claim in taken
        for address in ([claim.address] if claim.address else node_addresses)
    }


def services_at_backends(
    taken: Iterable[Claim], backends: Iterable[BackendOf], node_addresses: Collection[str]
) -> list[str]:
    """One line for each claim that would answer at a backend of another service (`backends_at_services`). backends: of services that stay."""
    by_endpoint = {(claim.protocol, claim.address, claim.port): claim for claim in taken}
    problems = []
    for backend in sorted(set(backends)):
        address = None if backend.address in node_addresses else backend.address
        claim = by_endpoint.get((backend.protocol, address, backend.port))
        if claim:
            at = ip.endpoint(backend.address, backend.port)
            problems.append(
                f"service {quoted(claim.service)}: {claim} would answer at {at}, which backends of service {quoted(backend.service)} has: "
                "must be another address or port, since a connection is translated once"
            )
    return problems


def _conflict(claim: Claim, other: Claim) -> str:
    whose = "itself" if claim.service == other.service else f"service {quoted(other.service)}"
    text = "service %s: %s is taken already by %s of %s: an address, port and protocol is allowed once"
    return text % (quoted(claim.service), claim, other.key, whose)
