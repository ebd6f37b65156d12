# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages of rtnetlink for an overlay: VXLAN devices, addresses, forwarding entries, neighbours and routes. Pure but for names of links.

Constants are those of ``if_link.h``, ``if_addr.h``, ``neighbour.h`` and ``rtnetlink.h``.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from .._model import addresses as ip
from .._objects.overlay import (
    DEVICE,
    MAIN_TABLE,
    Forwarding,
    InnerAddress,
    Neighbour,
    Route,
    Tunnel,
)
from .netlink import attribute, attributes, nested

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
FAMILIES = {ip.IPV4: socket.AF_INET, ip.IPV6: socket.AF_INET6}
AF_BRIDGE = 7
KIND = "vxlan"

_LINK = struct.Struct("=BxHiII")
"""Family, type, index, flags, and which flags are meant."""
_ADDRESS = struct.Struct("=BBBBi")
"""Family, prefix length, flags, scope, index of the interface."""
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""Family, index of the interface, state, flags, type."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""Family, prefix lengths of destination and source, tos, table, protocol, scope, type, flags."""
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 3, 4, 18, 26
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_INET6_ADDR_GEN_MODE, _GENERATE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 6, 15, 18
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200
_UNICAST = 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
"""The last, in a request to delete, is whatever scope."""
_UP = 1


class LinkInfo(NamedTuple):
    """A link as the kernel tells of it."""

    name: str
    ifindex: int
    kind: str
    """Empty for a physical one."""
    mtu: int
    tunnel: Tunnel | None
    """Of one that is a VXLAN device."""


def packed(address: str) -> bytes:
    """Return the bytes of an address."""
    return socket.inet_pton(FAMILIES[ip.family_of(address)], address)


def _unpacked(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


# links


def link_by_name(name: str) -> bytes:
    """Return what names a link; ioctl(2), as if_nametoindex(3) has it, would look for a module of its name."""
    return _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")


def link_by_index(index: int) -> bytes:
    """Return what names a link, or 0 all of them."""
    return _LINK.pack(0, 0, index, 0, 0)


def new_tunnel(tunnel: Tunnel) -> bytes:
    """Return the request for a device that is down."""
    local = _VXLAN_LOCAL6 if ":" in tunnel.local else _VXLAN_LOCAL
    settings = (
        attribute(_VXLAN_ID, _u32(tunnel.id)),
        attribute(local, packed(tunnel.local)),
        attribute(_VXLAN_LEARNING, bytes([tunnel.learning])),
        attribute(_VXLAN_PORT, struct.pack(">H", tunnel.port)),
    )
    return (
        link_by_name(DEVICE)
        + attribute(_IFLA_ADDRESS, _mac(tunnel.mac))
        + attribute(_IFLA_MTU, _u32(tunnel.mtu))
        + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, KIND.encode() + b"\0"), nested(_INFO_DATA, *settings))
    )


def edited_tunnel(index: int, tunnel: Tunnel) -> bytes:
    """Return the request for what can be changed of a device: MAC address, MTU, and whether it is up."""
    head = _LINK.pack(0, 0, index, _UP if tunnel.is_up else 0, _UP)
    return head + attribute(_IFLA_ADDRESS, _mac(tunnel.mac)) + attribute(_IFLA_MTU, _u32(tunnel.mtu))


def no_link_local_address(index: int) -> bytes:
    """Return the request that keeps a device from giving itself an IPv6 address."""
    mode = attribute(_INET6_ADDR_GEN_MODE, bytes([_GENERATE_NONE]))
    return _LINK.pack(0, 0, index, 0, 0) + nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, mode))


def read_link(message: bytes) -> LinkInfo:
    """Return what a message of the kernel says."""
    _family, _type, index, flags, _change = _LINK.unpack_from(message)
    found = attributes(message[_LINK.size :])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
    (mtu,) = struct.unpack("=I", found[_IFLA_MTU]) if _IFLA_MTU in found else (0,)
    tunnel = None
    if kind == KIND:
        settings = attributes(info.get(_INFO_DATA, b""))
        local = settings.get(_VXLAN_LOCAL) or settings.get(_VXLAN_LOCAL6)
        tunnel = Tunnel(
            struct.unpack("=I", settings[_VXLAN_ID])[0] if _VXLAN_ID in settings else 0,
            struct.unpack(">H", settings[_VXLAN_PORT])[0] if _VXLAN_PORT in settings else 0,
            _unpacked(local) if local else "",
            found.get(_IFLA_ADDRESS, b"").hex(":"),
            mtu,
            bool(flags & _UP),
            settings.get(_VXLAN_LEARNING, b"\0") != b"\0",
        )
    return LinkInfo(name, index, kind, mtu, tunnel)


# addresses


def address_message(address: InnerAddress, index: int) -> bytes:
    """Return the request for an address without a route to its network."""
    raw, length = packed(address.network.partition("/")[0]), int(address.network.partition("/")[2])
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    message = _ADDRESS.pack(family, length, 0, _SCOPE_UNIVERSE, index)
    message += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    flags = _IFA_F_NOPREFIXROUTE | (_IFA_F_NODAD if family == socket.AF_INET6 else 0)
    return message + attribute(_IFA_FLAGS, _u32(flags))


ALL_ADDRESSES = _ADDRESS.pack(0, 0, 0, 0, 0)


def read_address(message: bytes) -> tuple[int, InnerAddress] | None:
    """Return the index of its interface and an address of global scope, None for any other."""
    family, length, _flags, scope, index = _ADDRESS.unpack_from(message)
    if scope != _SCOPE_UNIVERSE or family not in FAMILIES.values():
        return None
    found = attributes(message[_ADDRESS.size :])
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return index, InnerAddress(f"{_unpacked(raw)}/{length}")


# forwarding entries and neighbours


def forwarding_message(entry: Forwarding, index: int) -> bytes:
    """Return the request for a static entry of the device itself."""
    message = _NEIGHBOUR.pack(AF_BRIDGE, index, _NUD_NOARP | _NUD_PERMANENT, _NTF_SELF, 0)
    message += attribute(_NDA_LLADDR, _mac(entry.mac))
    return message + (attribute(_NDA_DST, packed(entry.remote)) if entry.remote else b"")


def neighbour_message(neighbour: Neighbour, index: int) -> bytes:
    """Return the request for a permanent neighbour."""
    raw = packed(neighbour.address)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    message = _NEIGHBOUR.pack(family, index, _NUD_PERMANENT, 0, 0)
    return message + attribute(_NDA_DST, raw) + attribute(_NDA_LLADDR, _mac(neighbour.mac))


def all_neighbours(family: int) -> bytes:
    """Return the request for all neighbours of an address family, or with AF_BRIDGE for all forwarding entries."""
    return _NEIGHBOUR.pack(family, 0, 0, 0, 0)


def read_forwarding(message: bytes, index: int) -> Forwarding | None:
    """Return an entry of the device of this index, None for any other."""
    family, at, _state, flags, _type = _NEIGHBOUR.unpack_from(message)
    found = attributes(message[_NEIGHBOUR.size :])
    if family != AF_BRIDGE or at != index or not flags & _NTF_SELF or _NDA_LLADDR not in found:
        return None
    remote = found.get(_NDA_DST)
    return Forwarding(found[_NDA_LLADDR].hex(":"), _unpacked(remote) if remote else "")


def read_neighbour(message: bytes, index: int) -> Neighbour | None:
    """Return a permanent neighbour on the device of this index, None for any other."""
    family, at, state, _flags, _type = _NEIGHBOUR.unpack_from(message)
    if family not in FAMILIES.values() or at != index or not state & _NUD_PERMANENT:
        return None
    found = attributes(message[_NEIGHBOUR.size :])
    return Neighbour(_unpacked(found[_NDA_DST]), found.get(_NDA_LLADDR, b"").hex(":"))


# routes


def route_message(route: Route, index: int) -> bytes:
    """Return the request for a route of ours. index: of its interface."""
    address, dummy, length = route.destination.partition("/")
    scope = _SCOPE_UNIVERSE if route.gateway or ":" in address else _SCOPE_LINK
    flags = _RTNH_F_ONLINK if route.onlink else 0
    family = FAMILIES[ip.family_of(address)]
    message = _ROUTE.pack(family, int(length), 0, 0, MAIN_TABLE, route.protocol, scope, _UNICAST, flags)
    message += attribute(_RTA_DST, packed(address)) + attribute(_RTA_OIF, struct.pack("=i", index))
    message += attribute(_RTA_GATEWAY, packed(route.gateway)) if route.gateway else b""
    return message + (attribute(_RTA_PRIORITY, _u32(route.metric)) if route.metric else b"")


def route_to_delete(route: Route) -> bytes:
    """Return what names a route of ours, whatever its next hop has become."""
    address, dummy, length = route.destination.partition("/")
    family = FAMILIES[ip.family_of(address)]
    message = _ROUTE.pack(family, int(length), 0, 0, MAIN_TABLE, route.protocol, _SCOPE_NOWHERE, 0, 0)
    message += attribute(_RTA_DST, packed(address))
    return message + (attribute(_RTA_PRIORITY, _u32(route.metric)) if route.metric else b"")


def all_routes(family: int, protocol: int = 0) -> bytes:
    """Return the request for all routes, or those of a protocol where the kernel filters."""
    return _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)


def read_route(message: bytes, names: dict[int, str]) -> Route | None:
    """Return a route of table main, None for any other. names: of interfaces by index."""
    family, length, _source, _tos, table, protocol, _scope, kind, flags = _ROUTE.unpack_from(message)
    if table != MAIN_TABLE or flags & _RTM_F_CLONED or family not in FAMILIES.values():
        return None
    found = attributes(message[_ROUTE.size :])
    if _RTA_TABLE in found and found[_RTA_TABLE] != _u32(MAIN_TABLE):
        return None
    anywhere = bytes(4 if family == socket.AF_INET else 16)
    index = struct.unpack("=i", found[_RTA_OIF])[0] if _RTA_OIF in found else 0
    (metric,) = struct.unpack("=I", found.get(_RTA_PRIORITY, bytes(4)))
    gateway = found.get(_RTA_GATEWAY)
    return Route(
        f"{_unpacked(found.get(_RTA_DST, anywhere))}/{length}",
        _unpacked(gateway) if gateway else "",
        names.get(index, "") if kind == _UNICAST and _RTA_VIA not in found else "",
        metric,
        bool(flags & _RTNH_F_ONLINK),
        protocol,
    )
