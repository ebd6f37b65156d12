# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links, addresses and routes of one network namespace: changes by rtnetlink(7), with pyroute2.

Each function takes the IPRoute of the namespace first. NetlinkError, of pyroute2, is what the kernel refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import ip_interface
from socket import AF_INET6

from pyroute2 import IPRoute

IFF_UP = 0x1
IFA_F_TENTATIVE = 0x40
RTNH_F_ONLINK = 0x4
RTPROT_BOOT = 3
ADDRESS_SECONDS = 3.0


def index_of(route: IPRoute, interface: str) -> int:
    (found,) = route.link("get", ifname=interface)
    return int(found["index"])


def set_up(route: IPRoute, interface: str) -> None:
    route.link("set", index=index_of(route, interface), state="up")


def add_veth(route: IPRoute, interface: str, peer: str, peer_namespace: str) -> None:
    """Add a pair of which one end is here, and up, and the other in a namespace given by its path, and down."""
    route.link("add", ifname=interface, kind="veth", peer={"ifname": peer, "net_ns_fd": peer_namespace})
    set_up(route, interface)


def add_bridge(route: IPRoute, name: str, ports: Sequence[str], addresses: Sequence[str]) -> None:
    route.link("add", ifname=name, kind="bridge", br_forward_delay=0)
    add_ports(route, name, ports)
    add_addresses(route, name, addresses)
    set_up(route, name)


def add_ports(route: IPRoute, bridge: str, ports: Sequence[str]) -> None:
    """Make interfaces ports of a bridge, and bring them up."""
    master = index_of(route, bridge)
    for port in ports:
        route.link("set", index=index_of(route, port), master=master, state="up")


def add_addresses(route: IPRoute, interface: str, addresses: Sequence[str]) -> None:
    """Add addresses with prefix length, and wait until those of IPv6 can be used if the interface is up."""
    index = index_of(route, interface)
    for address in map(ip_interface, addresses):
        route.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    give_up = time.monotonic() + ADDRESS_SECONDS
    while any(":" in address for address in addresses) and time.monotonic() < give_up:
        if not _has_tentative(route, index):
            return
        time.sleep(0.002)


def add_route(route: IPRoute, destination: str, words: Sequence[str]) -> None:
    """Add a route in the words of ip-route(8): `via GATEWAY`, `dev NAME`, `table NUMBER`, `onlink`; ValueError for others."""
    options: dict[str, object] = {"dst": destination, "proto": RTPROT_BOOT}
    rest = iter(words)
    for word in rest:
        if word == "via":
            options["gateway"] = next(rest)
        elif word == "dev":
            options["oif"] = index_of(route, next(rest))
        elif word == "table":
            options["table"] = int(next(rest))
        elif word == "onlink":
            options["flags"] = RTNH_F_ONLINK
        else:
            raise ValueError(f"{word}: not known for a route")
    route.route("add", **options)


def _has_tentative(route: IPRoute, index: int) -> bool:
    """Whether an interface is up and has addresses that cannot be used yet."""
    (link,) = route.link("get", index=index)
    addresses = route.get_addr(family=AF_INET6, index=index)
    return bool(link["flags"] & IFF_UP) and any(one.get("flags") & IFA_F_TENTATIVE for one in addresses)
