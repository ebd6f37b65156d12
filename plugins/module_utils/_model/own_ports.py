# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of the node's own addresses that services take for themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import addresses as ip
from .conflicts import claims
from .families import service_families
from .fields import quoted
from .service import Node, Service

WILDCARD = {ip.IPV4: "0.0.0.0", ip.IPV6: "::"}


class OwnPort(NamedTuple):
    """address: one of the node's own; of a node port, which is on all of a family, the wildcard."""

    service: str
    key: str
    protocol: str
    address: str
    port: int

    @property
    def is_node_port(self) -> bool:
        return self.key == "node_port"

    def __str__(self) -> str:
        at = str(self.port) if self.is_node_port else ip.endpoint(self.address, self.port)
        return f"service {quoted(self.service)}: {self.key} {at}/{self.protocol}"

    def to_text(self) -> str:
        """Return it as words, for caches."""
        return " ".join(map(str, self))

    @classmethod
    def from_text(cls, text: str) -> OwnPort:
        """Return what `to_text` was made of."""
        service, key, protocol, address, port = text.split(" ")
        return cls(service, key, protocol, address, int(port))

    def takes(self, address: str, port: int, protocol: str, node: Node) -> bool:
        """Whether connections to this address of the node are the service's."""
        if (port, protocol) != (self.port, self.protocol) or ip.family_of(address) != ip.family_of(self.address):
            return False
        return node.has_node_ports(address) if self.is_node_port else address == self.address


def own_ports(services: Iterable[Service], node: Node) -> Iterator[OwnPort]:
    """Yield the ports of the node that services take, but those at which the service's own backend listens."""
    own = set(node.addresses)
    for service in services:
        if service.node_port is None and own.isdisjoint(service.addresses):
            continue
        here = {backend.port for backend in service.backends if backend.address in own}
        for claim in claims(service):
            if claim.address is None:
                for family in service_families(service, node):
                    yield OwnPort(*claim[:3], WILDCARD[family], claim.port)
            elif claim.address in own and claim.port not in here:
                yield OwnPort(*claim[:3], claim.address, claim.port)
