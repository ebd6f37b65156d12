# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's routes, over netlink (``rtnetlink.h``). Everything that can fail raises RouteError."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from .._objects.overlay import Way
from .netlink import NLM_F_DUMP, NetlinkError, NetlinkSocket, attribute, attributes

_NETLINK_ROUTE = 0
_GET = 26
_HEADER = struct.Struct("=BBBBBBBBI")
"""Of a route message: family, prefix lengths of destination and source, tos, table, protocol, scope, type, flags."""
_UNICAST, _LOCAL = 1, 2
_BLOCK = 64
_FIB_MATCH = 0x2000
_DESTINATION, _INTERFACE, _GATEWAY, _MULTIPATH, _VIA = 1, 4, 5, 9, 18
_NEXT_HOP = struct.Struct("=HBBi")
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
"""No route, or one of type unreachable, prohibit or blackhole."""
_ELSEWHERE = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1")
"""Addresses that belong to nobody (RFC 5737, RFC 2544), of which one at least should have no route but the default."""


class RouteError(Exception):
    """The routes could not be read; the text is the system's. code: errno."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.code = code


class Routes:
    """The routes of this network namespace. Looking one up sends no packet."""

    def __enter__(self) -> Routes:
        try:
            self._netlink = NetlinkSocket(_NETLINK_ROUTE)
        except OSError as error:
            raise RouteError(error.errno or 0) from error
        return self

    def __exit__(self, *dummy: object) -> None:
        self._netlink.close()

    def unreachable(self, addresses: Iterable[str]) -> list[str]:
        """Those to which the node itself has no route."""
        asked = list(addresses)
        blocks = [asked[start : start + _BLOCK] for start in range(0, len(asked), _BLOCK)]
        return [address for block in blocks for address in self._unreachable(block)]

    def _unreachable(self, block: Sequence[str]) -> list[str]:
        try:
            refused = self._netlink.execute_block(_GET, 0, [_question(address) for address in block])
        except OSError as error:
            raise RouteError(error.errno or 0) from error
        for code in refused.values():
            if code not in _NO_ROUTE:
                raise RouteError(code)
        return [block[at] for at in sorted(refused)]

    def way(self, address: str) -> Way | None:
        """How the node itself reaches an address, None where it has no route; on kernels before 4.13 no way is by the default route."""
        message = self._look_up(address)
        if message is None:
            return None
        fields = _HEADER.unpack_from(message)
        matched = self._look_up(address, _FIB_MATCH)
        return Way(
            _interfaces(message)[0],
            fields[7] == _LOCAL,
            not {_GATEWAY, _VIA} & attributes(message[_HEADER.size :]).keys(),
            matched is not None and _is_default(matched),
        )

    def uplinks(self) -> frozenset[str]:
        """The interfaces that have a default route of IPv4, in whichever table."""
        header = _HEADER.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        found = self._request(NLM_F_DUMP, header)
        return frozenset(name for message in found if _is_default(message) for name in _interfaces(message))

    def outside(self) -> frozenset[str]:
        """The interfaces through which IPv4 addresses are reached that no route but the default leads to, given the rules
        of routing; none on kernels before 4.13, which do not tell which route it was.
        """
        for address in _ELSEWHERE:
            message = self._look_up(address, _FIB_MATCH)
            if message is not None and _is_default(message):
                return frozenset(_interfaces(message))
        return frozenset()

    def _look_up(self, address: str, flags: int = 0) -> bytes | None:
        """The route to an address, None when there is none."""
        try:
            return self._request(0, _question(address, flags))[0]
        except RouteError as error:
            if error.code in _NO_ROUTE:
                return None
            raise

    def _request(self, flags: int, payload: bytes) -> list[bytes]:
        try:
            return list(self._netlink.request(_GET, flags, payload))
        except NetlinkError as error:
            raise RouteError(error.code) from error
        except OSError as error:
            raise RouteError(error.errno or 0) from error


def _question(address: str, flags: int = 0) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _asking(family, flags) + socket.inet_pton(family, address)


@lru_cache(maxsize=None)
def _asking(family: int, flags: int) -> bytes:
    """Return all of a question but the address, at its end."""
    address = bytes(16 if family == socket.AF_INET6 else 4)
    whole = _HEADER.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, flags) + attribute(_DESTINATION, address)
    return whole[: -len(address)]


def _is_default(message: bytes) -> bool:
    fields = _HEADER.unpack_from(message)
    return fields[1] == 0 and fields[7] == _UNICAST


def _interfaces(message: bytes) -> list[str]:
    fields = attributes(message[_HEADER.size :])
    indices = [struct.unpack("=i", fields[_INTERFACE])[0]] if _INTERFACE in fields else _next_hops(fields)
    return [socket.if_indextoname(index) for index in indices]


def _next_hops(fields: dict[int, bytes]) -> list[int]:
    hops, offset, found = fields.get(_MULTIPATH, b""), 0, []
    while offset + _NEXT_HOP.size <= len(hops):
        length, _flags, _weight, index = _NEXT_HOP.unpack_from(hops, offset)
        found.append(index)
        offset += max((length + 3) & ~3, _NEXT_HOP.size)
    return found
