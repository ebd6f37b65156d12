# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The maps and sets of our tables: what they are called, and the keys and values that they hold. Pure.

Whatever there may be many of is an element. A service is looked up by address, protocol and port, or, as a node port, by protocol and
port; what follows is found under the same key, so that the elements of one service never depend on another.
"""

from __future__ import annotations

import socket
import sys
from functools import lru_cache
from typing import NamedTuple

from ..._model import addresses as ip
from ..._objects.nftables import VERDICT, Elements, Key, Numgen, SetHeader
from ..._objects.nftables_types import concatenated, number, pack

NFT_FAMILIES = {ip.IPV4: "ip", ip.IPV6: "ip6"}
ADDRESS_TYPES = {ip.IPV4: "ipv4_addr", ip.IPV6: "ipv6_addr"}

Maps = dict[str, Elements]
"""The elements of services, by the map or set that holds them."""

SERVICES, NODE_PORTS = "services", "node-ports"
GUARDED, SOURCE_RANGES = "guarded-services", "source-ranges"
HAIRPIN, SERVICE_ADDRESSES = "hairpin", "service-addresses"
LOCAL_SOURCES, NODE_PORT_ADDRESSES = "local-sources", "node-port-addresses"
AFFINITY, AFFINITY_TIMEOUTS, AFFINITY_BACKENDS = "affinity", "affinity-timeouts", "affinity-backends"
SAVED_MARKS, SAVED_CT_MARKS = "saved-marks", "saved-ct-marks"
MOST_CLIENTS = 1 << 20
"""The clients that all services of a family together can have remembered; the kernel takes 16 bytes for each from the start."""
_MOST_SAVED = 1 << 14
_SAVED_FOR = 1000
"""Milliseconds; a mark is put back before the packet has left the hook."""


class Front(NamedTuple):
    """One of the two ways to look a service up, and the maps that it leads through."""

    prefix: str  # of the names of what it does not share with the other: none for addresses
    services: str  # what becomes of a connection
    affinity: str  # the numbers of services with session affinity

    @property
    def endpoints(self) -> str:
        return self.prefix + "endpoints"

    @property
    def local_endpoints(self) -> str:
        return self.prefix + "local-endpoints"

    @property
    def insiders(self) -> str:
        """Under an external local policy: the chain that picks one of all backends."""
        return self.prefix + "insiders"

    @property
    def outsiders(self) -> str:
        """Under an external local policy: the chain that picks a backend of this node."""
        return self.prefix + "outsiders"


BY_ADDRESS = Front("", SERVICES, "affinity-services")
BY_NODE_PORT = Front("node-port-", NODE_PORTS, "affinity-node-ports")
FRONTS = (BY_ADDRESS, BY_NODE_PORT)


class Pool(NamedTuple):
    """The maps of one of the two pools of services with session affinity."""

    suffix: str  # of the names of its maps and chains

    @property
    def members(self) -> str:
        """The numbers of its backends."""
        return "affinity-members" + self.suffix

    @property
    def slots(self) -> str:
        """The numbers of backends, by service and slot."""
        return "affinity-slots" + self.suffix

    @property
    def pools(self) -> str:
        """The chain that picks a backend, by service."""
        return "affinity-pools" + self.suffix


CLUSTER, LOCAL = Pool(""), Pool("-local")
POOLS = (CLUSTER, LOCAL)

VERDICT_MAPS = (
    SERVICES,
    NODE_PORTS,
    GUARDED,
    AFFINITY_TIMEOUTS,
    *(name for front in FRONTS for name in (front.insiders, front.outsiders)),
    *(pool.pools for pool in POOLS),
)

OF_SERVICES = (
    *(
        name
        for front in FRONTS
        for name in (*front, front.endpoints, front.local_endpoints, front.insiders, front.outsiders)[1:]
    ),
    GUARDED,
    SOURCE_RANGES,
    AFFINITY_TIMEOUTS,
    AFFINITY_BACKENDS,
    *(name for pool in POOLS for name in (pool.members, pool.slots, pool.pools)),
)
"""The maps and sets whose elements are each of one service."""
COUNTED = (
    *(front.services for front in FRONTS),
    *(name for front in FRONTS for name in (front.endpoints, front.local_endpoints)),
    AFFINITY_BACKENDS,
)
"""Where the setting `counters` counts new connections: of services, then of backends."""
NUMBER_BYTES = 4
"""The length of a mark, and of the number of a slot."""


class Fields(NamedTuple):
    """The names of a family's fields."""

    source: str
    destination: str

    @property
    def service(self) -> Key:
        """What a service is looked up by at its addresses."""
        return (self.destination, *NODE_PORT_KEY)

    def key(self, front: Front) -> Key:
        return self.service if front is BY_ADDRESS else NODE_PORT_KEY


NODE_PORT_KEY: Key = ("meta l4proto", "th dport")
FIELDS = {ip.IPV4: Fields("ip saddr", "ip daddr"), ip.IPV6: Fields("ip6 saddr", "ip6 daddr")}
_RANDOM = Numgen("random", 2)
"""Stands for any of the numbers that are drawn, where a map is declared."""


@lru_cache(maxsize=None)
def headers(family: str, counters: bool = False) -> dict[str, SetHeader]:
    """Return every map and set that a table may have. counters: whether new connections are counted."""
    address, fields = ADDRESS_TYPES[family], FIELDS[family]
    service, node_port, verdict = (address, "inet_proto", "inet_service"), ("inet_proto", "inet_service"), (VERDICT,)
    endpoint = (fields.destination, "th dport")
    found = {
        LOCAL_SOURCES: SetHeader((address,), flags=("interval",)),
        NODE_PORT_ADDRESSES: SetHeader((address,), flags=("interval",)),
        SERVICE_ADDRESSES: SetHeader((address,)),
        HAIRPIN: SetHeader((address, address)),
        GUARDED: SetHeader(service, verdict),
        SOURCE_RANGES: SetHeader((*service, address), flags=("interval",)),
        AFFINITY_TIMEOUTS: SetHeader(("mark",), verdict),
        AFFINITY_BACKENDS: SetHeader(("mark",), (address, "inet_service")),
        AFFINITY: SetHeader(("mark", address), ("mark",), ("dynamic", "timeout"), MOST_CLIENTS),
        SAVED_MARKS: SetHeader(("ct id",), ("meta mark",), ("dynamic", "timeout"), _MOST_SAVED, _SAVED_FOR),
        SAVED_CT_MARKS: SetHeader(("ct id",), ("ct mark",), ("dynamic", "timeout"), _MOST_SAVED, _SAVED_FOR),
    }
    for front, key in ((BY_ADDRESS, service), (BY_NODE_PORT, node_port)):
        found[front.services] = found[front.insiders] = found[front.outsiders] = SetHeader(key, verdict)
        found[front.endpoints] = found[front.local_endpoints] = SetHeader((*fields.key(front), _RANDOM), endpoint)
        found[front.affinity] = SetHeader(key, ("mark",))
    for pool in POOLS:
        found[pool.members] = SetHeader(("mark",))
        found[pool.pools] = SetHeader(("mark",), verdict)
        found[pool.slots] = SetHeader(("ct mark", _RANDOM), ("meta mark",))
    return {name: one._replace(counter=counters and name in COUNTED) for name, one in found.items()}


@lru_cache(maxsize=None)
def address_bytes(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@lru_cache(maxsize=None)
def port_bytes(protocol: str, port: int) -> bytes:
    """Return the key of a node port, which also ends the key of an address."""
    return concatenated((pack("inet_proto", protocol), pack("inet_service", str(port))))


def endpoint_bytes(address: str, port: int) -> bytes:
    """Return where a connection is translated to."""
    return address_bytes(address) + port.to_bytes(2, "big") + b"\0\0"


slot_bytes = lru_cache(maxsize=None)(number)
"""The number of a slot, or a mark."""


def to_number(value: bytes) -> int:
    """Return the number of a slot: the reverse of `slot_bytes`."""
    return int.from_bytes(value, sys.byteorder)
