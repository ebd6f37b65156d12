# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a node has, read from the elements that its kernel holds. Pure, but for `node_info`.

The reverse of the compiler, as far as elements tell: weights come back as shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from ..._model import addresses as ip
from ..._model.conflicts import Claim
from ..._objects.conntrack import Endpoint
from ..._objects.nftables import Element, Elements, Verdict
from ..._objects.nftables_changes import NftError
from ..._objects.nftables_types import split, unpack
from ..report import Refusal, as_dicts
from . import maps
from .compile import NO_BACKENDS
from .host import TABLES, Facility, Held, maps_of
from .maps import BY_NODE_PORT, CLUSTER, FRONTS, LOCAL, Front
from .ownership import owner_and_kind, owners
from .slots import slot_shares

_KEYS = {
    "vip": "vip",
    "external ip": "external_ips",
    "load balancer": "load_balancer_ips",
    "node port": "node_port",
}
"""What the comment of an address says, and the key of the service under which it is given."""
_LISTED = ("vip", "external_ips", "load_balancer_ips")
_NO_LOCAL = "no local backends"
_COUNTS = ("services", "destinations", "elements", "sets", "chains", "rules")
_SHARE_DIGITS = 6


class Entry(NamedTuple):
    """What becomes of connections to an address or node port."""

    claim: Claim
    front: Front
    number: bytes  # the key under which all else of it is found
    verdict: Verdict


class ObservedBackend(NamedTuple):
    """Where a service leads to."""

    address: str
    port: int
    share: float | None  # its part of new connections that may reach every backend, None if it has none
    local_share: float | None  # of those that reach only backends of this node
    connections: int | None = None  # those that it has been given, None where they are not counted


class ObservedService(NamedTuple):
    """A service in both address families."""

    name: str
    protocol: str
    port: int | None  # None where it has nothing but a node port
    vip: list[str]
    external_ips: list[str]
    load_balancer_ips: list[str]
    node_port: int | None
    backends: list[ObservedBackend]
    refusals: list[Refusal]
    connections: int | None = None  # those that have come, refused ones too, None where they are not counted


class Connections(NamedTuple):
    """New connections that have been counted."""

    services: Counter[str]
    backends: Counter[tuple[str, Endpoint]]  # by service and backend


def claims_of(
    services: Mapping[str, Elements],
    family: str,
    at: Collection[str | None] | None = None,
    of: Collection[str] | None = None,
) -> list[Claim]:
    """Return what services have taken for themselves. at: only of these addresses, None for node ports; of: only of these services."""
    found = [entry.claim for entry in _entries(services, family, of)]
    return [claim for claim in found if at is None or claim.address in at]


def observed_services(held: Held) -> list[ObservedService]:
    """Return the services by name."""
    by_name: dict[str, list[tuple[str, Entry]]] = {}
    for family, one in TABLES.items():
        for entry in _entries(maps_of(held.get(one)), family):
            by_name.setdefault(entry.claim.service, []).append((family, entry))
    shares = {family: _Shares(maps_of(held.get(one)), family) for family, one in TABLES.items()}
    return [_service(name, found, shares) for name, found in sorted(by_name.items())]


def node_info(facility: Facility) -> dict[str, Any]:
    """Return services, counts, and what could not be read, by tool."""
    try:
        (held, dummy), unreadable = facility.read(), {}
        connections = _connections(facility, held)
    except NftError as error:
        held, unreadable, connections = {}, {"nft": str(error)}, None
    services = [_counted(one, connections) if connections else one for one in observed_services(held)]
    tables = held.values()
    counts = (
        len(services),
        sum(len(service.backends) for service in services),
        sum(len(one.elements) for table in tables for one in table.sets.values()),
        sum(len(table.sets) for table in tables),
        sum(len(table.chains) for table in tables),
        sum(len(chain.rules) for table in tables for chain in table.chains.values()),
    )
    return {"services": as_dicts(services), "counts": dict(zip(_COUNTS, counts)), "unreadable": unreadable}


def _connections(facility: Facility, held: Held) -> Connections | None:
    """Read what has been counted; None where nothing is."""
    if not any(one.header.counter for table in held.values() for one in table.sets.values()):
        return None
    found = Connections(Counter(), Counter())
    for family, one in TABLES.items():
        sets = held[one].sets if one in held else {}
        headers = {name: sets[name].header for name in maps.COUNTED if name in sets and sets[name].header.counter}
        elements, types = maps_of(held.get(one)), (maps.ADDRESS_TYPES[family], "inet_service")
        owner_of = owners(elements, family)
        for name, counted in facility.counters(one, headers).items() if headers else ():
            for key, packets in counted.items():
                element = elements[name].get(key)
                owner = owner_of[name](key, element) if element else None
                if owner and element and isinstance(element.data, bytes):
                    found.backends[owner, _to_endpoint(types, element.data)] += packets
                elif owner:
                    found.services[owner] += packets
    return found


def _counted(service: ObservedService, found: Connections) -> ObservedService:
    backends = [
        one._replace(connections=found.backends[service.name, (one.address, one.port)]) for one in service.backends
    ]
    return service._replace(connections=found.services[service.name], backends=backends)


def _to_endpoint(types: tuple[str, str], data: bytes) -> Endpoint:
    address, port = map(unpack, types, split(types, data))
    return address, int(port)


def _entries(services: Mapping[str, Elements], family: str, of: Collection[str] | None = None) -> Iterator[Entry]:
    types = (maps.ADDRESS_TYPES[family], "inet_proto", "inet_service")
    for front in FRONTS:
        for key, element in services.get(front.services, {}).items():
            owner, kind = owner_and_kind(element)
            if kind not in _KEYS or (of is not None and owner not in of):
                continue
            is_node_port = front is BY_NODE_PORT
            *address, protocol, port = map(unpack, types[is_node_port:], split(types[is_node_port:], key))
            claim = Claim(owner, _KEYS[kind], protocol, address[0] if address else None, int(port))
            yield Entry(claim, front, key, cast(Verdict, element.data))


def _service(name: str, found: Iterable[tuple[str, Entry]], shares: Mapping[str, _Shares]) -> ObservedService:
    entries = [entry for dummy, entry in found]
    claims = [entry.claim for entry in entries]
    listed = {
        key: sorted({c.address for c in claims if c.key == key and c.address}, key=ip.sort_key) for key in _LISTED
    }
    every: dict[Endpoint, float] = {}
    local: dict[Endpoint, float] = {}
    for family, entry in found:
        shares[family].add(entry, every, local)
    backends = sorted({*every, *local}, key=lambda endpoint: (ip.sort_key(endpoint[0]), endpoint[1]))
    refusals = {refusal: None for family, entry in found for refusal in shares[family].refusals(entry)}
    return ObservedService(
        name,
        claims[0].protocol,
        next((claim.port for claim in claims if claim.address), None),
        listed["vip"],
        listed["external_ips"],
        listed["load_balancer_ips"],
        node_port=next((claim.port for claim in claims if claim.address is None), None),
        backends=[ObservedBackend(*one, every.get(one), local.get(one)) for one in backends],
        refusals=list(refusals),
    )


class _Shares:
    """The backends that the slots of one family lead to."""

    def __init__(self, services: Mapping[str, Elements], family: str) -> None:
        self._services = services
        self._types = (maps.ADDRESS_TYPES[family], "inet_service")
        self._slots = {
            name: _by_key(services.get(name, {}))
            for name in (
                *(name for front in FRONTS for name in (front.endpoints, front.local_endpoints)),
                CLUSTER.slots,
                LOCAL.slots,
            )
        }

    def add(self, entry: Entry, every: dict[Endpoint, float], local: dict[Endpoint, float]) -> None:
        """Add what an entry leads to."""
        front, key = entry.front, entry.number
        chain = self._behind_guard(entry)
        if chain.endswith("-affinity"):
            number = self._data(front.affinity, key)
            for pool, found in ((CLUSTER, every), (LOCAL, local)):
                self._fill(found, self._chain(pool.pools, number), pool.slots, number)
        elif chain.endswith("-local"):
            self._fill(every, self._chain(front.insiders, key), front.endpoints, key)
            self._fill(local, self._chain(front.outsiders, key), front.local_endpoints, key)
        elif chain:
            self._fill(local if chain.startswith("vip-local-") else every, chain, front.endpoints, key)

    def refusals(self, entry: Entry) -> Iterator[Refusal]:
        """Yield what is refused at this entry."""
        where, chain = (entry.claim.address, entry.claim.port), self._behind_guard(entry)
        if entry.verdict.chain == "guarded":
            yield Refusal(*where, "drop", "outside source ranges")
        if chain == NO_BACKENDS:
            yield Refusal(*where, "reject", "no backends")
        elif entry.verdict.action == "drop" or not self._may_reach_one(entry, chain):
            yield Refusal(*where, "drop", _NO_LOCAL)

    def _behind_guard(self, entry: Entry) -> str:
        chain = entry.verdict.chain
        return self._chain(maps.GUARDED, entry.number) if chain == "guarded" else chain

    def _may_reach_one(self, entry: Entry, chain: str) -> bool:
        """Whether outsiders may reach a backend."""
        if chain.endswith("-local"):
            return bool(self._chain(entry.front.outsiders, entry.number))
        return not chain.endswith("-local-affinity") or bool(self._chain(LOCAL.pools, self._number(entry)))

    def _number(self, entry: Entry) -> bytes:
        return self._data(entry.front.affinity, entry.number)

    def _data(self, name: str, key: bytes) -> bytes:
        return cast(bytes, self._services.get(name, {}).get(key, Element(b"")).data)

    def _chain(self, name: str, key: bytes) -> str:
        element = self._services.get(name, {}).get(key)
        return cast(Verdict, element.data).chain if element else ""

    def _fill(self, found: dict[Endpoint, float], chain: str, name: str, key: bytes) -> None:
        slots = self._slots[name].get(key, {})
        if not (chain.rpartition("-")[2].isdigit() and slots):
            return
        endpoints = {slot: self._endpoint(name, data) for slot, data in slots.items()}
        order = sorted({one for one in endpoints.values() if one}, key=str)
        index = {one: at for at, one in enumerate(order)}
        owners = {slot: index[one] for slot, one in endpoints.items() if one}
        found.update((order[at], round(share, _SHARE_DIGITS)) for at, share in slot_shares(chain, owners).items())

    def _endpoint(self, name: str, data: bytes) -> Endpoint | None:
        if name in (CLUSTER.slots, LOCAL.slots):
            data = self._data(maps.AFFINITY_BACKENDS, data)
        if not data:
            return None
        return _to_endpoint(self._types, data)


def _by_key(elements: Elements) -> dict[bytes, dict[int, bytes]]:
    """The data of slots by the key in front of their numbers."""
    found: dict[bytes, dict[int, bytes]] = {}
    size = maps.NUMBER_BYTES
    for key, element in elements.items():
        found.setdefault(key[:-size], {})[maps.to_number(key[-size:])] = cast(bytes, element.data)
    return found
