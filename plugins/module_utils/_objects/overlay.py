# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a node reaches the backends of other nodes: routes, or a VXLAN device with static entries. Values, and the text of ip(8) and bridge(8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Union

from .._model import addresses as ip
from .._model.messages import printable

DEVICE = "l4-vxlan0"
PROTOCOL = 76
"""Who has made a route (``rtm_protocol``): ours are those with this number in table main. Nobody in iproute2's rt_protos has it."""
MAIN_TABLE = 254
METRICS = {ip.IPV4: 0, ip.IPV6: 1024}
"""What the kernel gives to routes without one."""


class Tunnel(NamedTuple):
    """The device."""

    id: int
    port: int
    """UDP."""
    local: str
    """The node's address in the network that carries the packets."""
    mac: str
    mtu: int
    is_up: bool = True
    learning: bool = False
    """Whether it learns from packets which node has which MAC address."""

    def is_same_device(self, other: Tunnel) -> bool:
        """Return whether one can be made of the other without a new device."""
        return self._replace(mac="", mtu=0, is_up=True) == other._replace(mac="", mtu=0, is_up=True)


class ReversePath(NamedTuple):
    """The filter of sources of packets that the device receives."""

    mode: int
    """2 is loose: a source needs a route, by whichever interface (ip-sysctl)."""


class InnerAddress(NamedTuple):
    """An address of the device, from which the node itself sends and which masqueraded connections have."""

    network: str
    """``address/length``."""


class Forwarding(NamedTuple):
    """Which node has a MAC address."""

    mac: str
    remote: str
    """The address of the node in the network that carries the packets; empty for an entry without."""


class Neighbour(NamedTuple):
    """Which MAC address an inner address of another node has."""

    address: str
    mac: str


class Route(NamedTuple):
    """A route of table main."""

    destination: str
    gateway: str
    """Empty for what is on the link."""
    device: str
    """Empty for a route of another type than unicast, or with several next hops."""
    metric: int
    onlink: bool = False
    """Whether the gateway is taken to be on the link without a route to it."""
    protocol: int = PROTOCOL


Item = Union[Tunnel, ReversePath, InnerAddress, Forwarding, Neighbour, Route]
KINDS: tuple[type[Item], ...] = (Tunnel, ReversePath, InnerAddress, Forwarding, Neighbour, Route)
"""In the order in which they are made."""


class Way(NamedTuple):
    """How the node reaches an address."""

    device: str
    is_local: bool
    """Whether it is an address of the node itself."""
    is_direct: bool
    """Whether without a gateway."""
    is_default: bool
    """Whether no route but the default leads there."""


class OtherTunnel(NamedTuple):
    """A VXLAN device of somebody else."""

    name: str
    id: int
    port: int


def key(item: Item) -> tuple[object, ...]:
    """Return what tells an item from others: two with the same key replace each other."""
    if isinstance(item, (Tunnel, ReversePath)):
        return (type(item),)
    if isinstance(item, Route):
        return Route, item.destination, item.metric
    return type(item), item[0]


def is_on_device(item: Item) -> bool:
    """Return whether it goes with our device."""
    return not isinstance(item, Route) or item.device == DEVICE


def in_order(items: Iterable[Item]) -> list[Item]:
    """Return items in the order in which they are made."""
    return sorted(items, key=lambda one: (KINDS.index(type(one)), _sort_key(one)))


def _sort_key(item: Item) -> tuple[object, ...]:
    texts = [str(one) for one in item]
    if isinstance(item, (InnerAddress, Route, Neighbour)):
        address, dummy, length = texts[0].partition("/")
        return (*ip.sort_key(address), int(length or 0), *texts)
    return tuple(texts)


def text(item: Item) -> str:
    """Return the line that a tool shows, without what is the same for all."""
    if isinstance(item, Tunnel):
        state, learning = ("UP" if item.is_up else "DOWN"), ("learning" if item.learning else "nolearning")
        head = f"{DEVICE}: mtu {item.mtu} state {state} link/ether {item.mac}"
        return f"{head} vxlan id {item.id} local {item.local} dstport {item.port} {learning}"
    if isinstance(item, ReversePath):
        return f"net.ipv4.conf.{DEVICE}.rp_filter = {item.mode}"
    if isinstance(item, InnerAddress):
        return f"{'inet6' if ':' in item.network else 'inet'} {item.network} scope global {DEVICE}"
    if isinstance(item, Forwarding):
        return " ".join([item.mac, "dev", DEVICE, *(["dst", item.remote] if item.remote else []), "self permanent"])
    if isinstance(item, Neighbour):
        return f"{item.address} dev {DEVICE} lladdr {item.mac} PERMANENT"
    return route_text(item)


def route_text(route: Route) -> str:
    """Return the line of ``ip route show``, without what is usual."""
    address, dummy, length = route.destination.partition("/")
    family = ip.family_of(address)
    words = [address if int(length) == ip.bits(family) else "default" if length == "0" else route.destination]
    if route.gateway:
        words += ["via", route.gateway]
    words += ["dev", printable(route.device)] if route.device else ["(no single next hop)"]
    words += ["proto", str(route.protocol)]
    if route.metric != METRICS[family]:
        words += ["metric", str(route.metric)]
    return " ".join(words + (["onlink"] if route.onlink else []))


HEADINGS = {
    Tunnel: "ip -d link",
    ReversePath: "sysctl",
    InnerAddress: "ip address",
    Forwarding: "bridge fdb",
    Neighbour: "ip neigh",
    Route: "ip route",
}
"""The tool that shows each kind, as it stands over the lines of a diff."""
