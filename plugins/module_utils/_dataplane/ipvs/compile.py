# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services compiled to virtual services of IPVS: one for each address at which they answer. Pure.

What cannot be said in IPVS is not approximated in rules; ``docs/semantics.md`` lists the differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.families import service_families
from ..._model.service import DEFAULT_SCHEDULER, Backend, Node, Service
from ..._objects.conntrack import Endpoint
from ..._objects.ipvs import Destination, HeldService, ServiceKey, VirtualService
from ..._objects.node_facts import SERVICE_DEVICE
from .. import backends as pools

DEVICE = SERVICE_DEVICE
VIP, EXTERNAL_IP, LOAD_BALANCER, NODE_PORT = "vip", "external ip", "load balancer", "node port"
KINDS = (VIP, EXTERNAL_IP, LOAD_BALANCER, NODE_PORT)
_FALLBACK = {"sh": "sh-fallback", "mh": "mh-fallback"}


class Frontend(NamedTuple):
    """An address, protocol and port at which a service answers.

    service: its name, empty where nobody knows it any more. masquerade: whose connections get the node's address, ``vip``
    (by the node's settings), ``external`` (all) or ``local`` (those of the node itself). rejects: there is no backend for
    new connections. sources: None where everyone may connect, else the networks that may. virtual: what the kernel has
    for it, None where there is nothing to lead even old connections to.
    """

    key: ServiceKey
    service: str
    kind: str
    masquerade: str
    rejects: bool
    sources: tuple[str, ...] | None
    virtual: HeldService | None


Frontends = dict[ServiceKey, Frontend]


class Compiled(NamedTuple):
    """What services are compiled to."""

    frontends: Frontends
    services: Sequence[Service]


def compile_frontends(services: Iterable[Service], node: Node) -> Frontends:
    """All that these services answer at."""
    found = [frontend for service in services for frontend in _Compiler(service, node).frontends()]
    return {frontend.key: frontend for frontend in found}


def bound_addresses(frontends: Iterable[Frontend], node: Node) -> set[str]:
    """The addresses that the node has to have for IPVS to see their packets, and that it has from nobody else."""
    return {one.key.address for one in frontends if one.kind != NODE_PORT} - set(node.addresses)


def node_port_addresses(node: Node) -> list[str]:
    """The node's addresses that have node ports."""
    return [one for one in node.addresses if not ip.unfit_for_service(one) and node.has_node_ports(one)]


class _Compiler:
    """The frontends of one service."""

    def __init__(self, service: Service, node: Node) -> None:
        self.service, self.node = service, node
        self.pools = {family: pools.choose(service, node, family) for family in ip.FAMILIES}

    def frontends(self) -> list[Frontend]:
        service = self.service
        found = [self._vip(address) for address in service.vip]
        found += [self._external(EXTERNAL_IP, address, service.port) for address in service.external_ips]
        found += [self._load_balancer(address) for address in service.load_balancer_ips]
        if service.node_port is not None:
            answering = service_families(service, self.node)
            found += [
                self._external(NODE_PORT, address, service.node_port)
                for address in node_port_addresses(self.node)
                if ip.family_of(address) in answering
            ]
        return found

    def _vip(self, address: str) -> Frontend:
        local = self.service.internal_traffic_policy == "local"
        return self._frontend(VIP, address, self.service.port, "vip", local)

    def _external(self, kind: str, address: str, port: int) -> Frontend:
        """Without a local backend a local policy falls back to all, and then needs the answers to come back this way."""
        local = self.service.external_traffic_policy == "local" and bool(self.pools[ip.family_of(address)].local)
        return self._frontend(kind, address, port, "local" if local else "external", local)

    def _load_balancer(self, address: str) -> Frontend:
        made = self._external(LOAD_BALANCER, address, self.service.port)
        return made._replace(sources=self._admitted(address)) if self.service.source_ranges else made

    def _admitted(self, address: str) -> tuple[str, ...]:
        """The source ranges of the address's family; the node itself comes from the address, and may when it is covered."""
        family = ip.family_of(address)
        ranges = [cidr for cidr in self.service.source_ranges if ip.family_of(cidr) == family]
        if any(ip.contains(cidr, own) for cidr in ranges for own in self.node.addresses):
            ranges.append(ip.host_network(address))
        return tuple(sorted({half for cidr in ranges for half in _storable(cidr)}))

    def _frontend(self, kind: str, address: str, port: int, masquerade: str, local: bool) -> Frontend:
        family = ip.family_of(address)
        key = ServiceKey(family, self.service.protocol, address, port, 0)
        pool = self.pools[family].local if local else self.pools[family].cluster
        destinations = self._destinations(family, pool, local)
        virtual = HeldService(self._virtual(key, destinations.values()), destinations) if destinations else None
        return Frontend(key, self.service.name, kind, masquerade, not pool, None, virtual)

    def _destinations(self, family: str, pool: Sequence[Backend], local: bool) -> dict[Endpoint, Destination]:
        """The pool, and with weight 0 the backends that may finish what they have."""
        serving = [
            one
            for one in self.service.backends
            if one.family == family
            and (one.ready or (one.serving and one.terminating))
            and (not local or one.node == self.node.name)
        ]
        chosen = set(pool)
        return {
            (one.address, one.port): Destination(
                one.address, one.port, self.service.forward_method, one.weight if one in chosen else 0
            )
            for one in serving
        }

    def _virtual(self, key: ServiceKey, destinations: Iterable[Destination]) -> VirtualService:
        scheduler = self.service.scheduler or DEFAULT_SCHEDULER
        persistent = self.service.session_affinity == "client_ip"
        return VirtualService(
            key,
            scheduler,
            _flags(scheduler, destinations),
            self.service.session_affinity_timeout if persistent else 0,
            ip.bits(key.family),
            False,
        )


def _flags(scheduler: str, destinations: Iterable[Destination]) -> tuple[str, ...]:
    """A hash of the source may lead to a destination that takes nothing new: without fallback its clients are refused."""
    fallback = _FALLBACK.get(scheduler)
    return (fallback,) if fallback and any(not one.weight for one in destinations) else ()


def _storable(cidr: str) -> list[str]:
    """A network as an ipset holds it: one address without its length, and everything in two halves."""
    address, dummy, length = cidr.partition("/")
    if int(length) == ip.bits(ip.family_of(cidr)):
        return [address]
    if int(length) == 0:
        return ["::/1", "8000::/1"] if ip.family_of(cidr) == ip.IPV6 else ["0.0.0.0/1", "128.0.0.0/1"]
    return [cidr]
