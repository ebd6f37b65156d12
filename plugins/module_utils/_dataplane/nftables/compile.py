# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services compiled to the elements of maps. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from ipaddress import collapse_addresses, ip_network
from typing import Any

from ..._model import addresses as ip
from ..._model.families import by_family
from ..._model.service import Backend, Node, Service
from ..._objects.nftables import Element, Elements, Verdict
from .. import backends as pools
from . import maps
from .maps import BY_ADDRESS, BY_NODE_PORT, CLUSTER, LOCAL, Front, Maps, Pool
from .numbers import Numbers, number_services
from .slots import share_slots

_NOTHING = Element()
goto = lru_cache(maxsize=None)(lambda chain: Verdict("goto", chain))
_DROP = Verdict("drop")
NO_BACKENDS = "no-backends"
_ADDRESS_KINDS = {"external_ips": "external ip", "load_balancer_ips": "load balancer"}


def compile_services(services: Sequence[Service], node: Node, others: Collection[int] = ()) -> dict[str, Maps]:
    """Return the elements of these services, by address family. others: numbers that services beside them have."""
    numbers = number_services(services, others)
    return {
        family: _Compiler(node, family, numbers).compile(found) for family, found in by_family(services, node).items()
    }


class _Compiler:
    """Collects the elements of services in one family."""

    def __init__(self, node: Node, family: str, numbers: Numbers) -> None:
        self.node, self.family, self.numbers = node, family, numbers
        self.maps: Maps = {}

    def compile(self, services: Iterable[Service]) -> Maps:
        for service in services:
            self._service(service)
        return self.maps

    def _map(self, name: str) -> Elements:
        return self.maps.setdefault(name, {})

    def _service(self, service: Service) -> None:
        found = pools.choose(service, self.node, self.family)
        for address in service.vip:
            if ip.family_of(address) == self.family:
                self._vip(service, found, address)
        for kind, what in _ADDRESS_KINDS.items():
            for address in getattr(service, kind):
                if ip.family_of(address) == self.family:
                    self._external(service, found, address, what)
        if service.node_port is not None:
            key = maps.port_bytes(service.protocol, service.node_port)
            verdict = self._external_verdict(service, found, BY_NODE_PORT, key)
            self._map(maps.NODE_PORTS)[key] = Element(verdict, f"{service.name}: node port")
        if service.session_affinity == "client_ip":
            self._affinity(service, found)

    def _vip(self, service: Service, found: pools.Pools, address: str) -> None:
        key = maps.address_bytes(address) + maps.port_bytes(service.protocol, service.port)
        is_local = service.internal_traffic_policy == "local"
        pool = found.local if is_local else found.cluster
        if not pool:
            verdict = _DROP if found.cluster else goto(NO_BACKENDS)
        elif service.session_affinity == "client_ip":
            verdict = goto("vip-local-affinity" if is_local else "vip-affinity")
            self._map(BY_ADDRESS.affinity)[key] = self._number(service)
        else:
            way = "vip-local-" if is_local else "vip-"
            verdict = goto(way + self._spread(pool, BY_ADDRESS.endpoints, key))
        self._map(maps.SERVICES)[key] = Element(verdict, f"{service.name}: vip")

    def _external(self, service: Service, found: pools.Pools, address: str, what: str) -> None:
        key = maps.address_bytes(address) + maps.port_bytes(service.protocol, service.port)
        verdict = self._external_verdict(service, found, BY_ADDRESS, key)
        if service.source_ranges and what == "load balancer":
            self._map(maps.GUARDED)[key] = Element(verdict)
            self._map(maps.SOURCE_RANGES).update(
                (key + source[0] + key + source[1], _NOTHING) for source in self._admitted(service, address)
            )
            verdict = goto("guarded")
        self._map(maps.SERVICES)[key] = Element(verdict, f"{service.name}: {what}")

    def _external_verdict(self, service: Service, found: pools.Pools, front: Front, key: bytes) -> Verdict:
        """Return what becomes of external traffic, and keep what that takes."""
        way = front.prefix[:-1] or "external"
        is_local = service.external_traffic_policy == "local"
        if not found.cluster:
            return goto(NO_BACKENDS)
        if service.session_affinity == "client_ip":
            self._map(front.affinity)[key] = self._number(service)
            return goto(f"{way}-local-affinity" if is_local else f"{way}-affinity")
        chosen = self._spread(found.cluster, front.endpoints, key)
        if not is_local:
            return goto(f"{way}-{chosen}")
        self._map(front.insiders)[key] = Element(goto(f"{front.prefix}backends-{chosen}"))
        if found.local:
            chosen = self._spread(found.local, front.local_endpoints, key)
            self._map(front.outsiders)[key] = Element(goto(f"{front.prefix}local-backends-{chosen}"))
        return goto(f"{way}-local")

    def _spread(self, pool: Sequence[Backend], name: str, key: bytes) -> str:
        """Fill slots with the endpoints of a pool; return the end of the name of the chains that draw one."""
        slots = share_slots(tuple([backend.weight for backend in pool]))
        endpoints = [_endpoint(backend.address, backend.port) for backend in pool]
        slot_bytes = maps.slot_bytes
        self._map(name).update([(key + slot_bytes(slot), endpoints[index]) for slot, index in slots.filled])
        return slots.chain

    def _admitted(self, service: Service, address: str) -> list[tuple[bytes, bytes]]:
        """The first and last addresses of who may come; the node itself may come from the load-balancer address, when covered."""
        ranges = [cidr for cidr in service.source_ranges if ip.family_of(cidr) == self.family]
        if any(ip.contains(cidr, own) for cidr in ranges for own in self.node.addresses):
            ranges.append(ip.host_network(address))
        return collapsed(ranges)

    def _number(self, service: Service) -> Element:
        return Element(maps.slot_bytes(self.numbers.services[service.name]))

    def _pools_in_use(self, service: Service, found: pools.Pools) -> list[tuple[Pool, list[Backend]]]:
        """The pools with backends that some address or node port of the service leads to in this family."""
        external = [address for kind in _ADDRESS_KINDS for address in getattr(service, kind)]
        ways = []
        if any(ip.family_of(address) == self.family for address in service.vip):
            ways.append(service.internal_traffic_policy)
        if service.node_port is not None or any(ip.family_of(address) == self.family for address in external):
            ways += ["cluster", service.external_traffic_policy]
        named = (("cluster", CLUSTER, found.cluster), ("local", LOCAL, found.local))
        return [(which, pool) for name, which, pool in named if pool and name in ways]

    def _affinity(self, service: Service, found: pools.Pools) -> None:
        """What is kept of a service and its backends once, whatever it is reached by."""
        in_use = self._pools_in_use(service, found)
        if not in_use:
            return
        key = maps.slot_bytes(self.numbers.services[service.name])
        timeout = goto(f"affinity-remember-{service.session_affinity_timeout}")
        self._map(maps.AFFINITY_TIMEOUTS)[key] = Element(timeout, service.name)
        for which, pool in in_use:
            slots = share_slots(tuple([backend.weight for backend in pool]))
            own = [maps.slot_bytes(self.numbers.backends[service.name, one.address, one.port]) for one in pool]
            chain = f"affinity-backends{which.suffix}-{slots.chain}"
            self._map(which.pools)[key] = Element(goto(chain))
            self._map(which.members).update((number, _NOTHING) for number in own)
            self._map(which.slots).update((key + maps.slot_bytes(at), Element(own[i])) for at, i in slots.filled)
            self._map(maps.AFFINITY_BACKENDS).update(
                (number, _endpoint(one.address, one.port)) for number, one in zip(own, pool)
            )


@lru_cache(maxsize=None)
def _endpoint(address: str, port: int) -> Element:
    return Element(maps.endpoint_bytes(address, port))


def collapsed(networks: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """Return the first and last addresses of networks of one family, none of which is in another."""
    found: Any = collapse_addresses(map(ip_network, networks))
    return [(one.network_address.packed, one.broadcast_address.packed) for one in found]
