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
from contextlib import closing
from functools import lru_cache

from .._model.addresses import FAMILIES, IPV4, IPV6, family_of
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
_REFUSING = (6, 7, 8, 9)
"""Types of routes: blackhole, unreachable, prohibit, and throw, which ends a table."""
_GET_RULE = 34
_RULE = struct.Struct("=BBBBBBBBI")
"""Of a rule (``fib_rules.h``): family, prefix lengths of destination and source, tos, table, two of no use, action, flags."""
_TO_TABLE = 1
_RULE_PRIORITY, _RULE_SUPPRESS, _RULE_TABLE, _RULE_PROTOCOL = 6, 14, 15, 21
_AF = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_MANY = 256
"""Looking up fewer takes no longer than asking for rules and routes."""
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
"""No route, or one of type unreachable, prohibit or blackhole."""
_ELSEWHERE = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1")
"""Addresses that belong to nobody (RFC 5737, RFC 2544), of which one at least should have no route but the default."""
_OF_NOBODY = {IPV4: _ELSEWHERE, IPV6: ("2001:db8::1",)}


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
        """Those to which the node itself has no route. Of many, none is looked up where that is told by the default route."""
        asked = list(addresses)
        if len(asked) > _MANY:
            families = [family for family in FAMILIES if not self.reaches_all(family)]
            asked = [one for one in asked if family_of(one) in families]
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

    def reaches_all(self, family: str) -> bool:
        """Return whether no address of a family can be without a route: there is a default route, only the usual rules lead to
        tables, and no route refuses. False also where the kernel does not tell.
        """
        at = _AF[family]
        try:
            rules = frozenset(map(_rule, self._request(NLM_F_DUMP, _RULE.pack(at, *bytes(7), 0), _GET_RULE)))
            if rules != _RULES[family] or _refusing(at):
                return False
            ways = (self._look_up(one, _FIB_MATCH) for one in _OF_NOBODY[family])
            return any(way is not None and _is_default(way) for way in ways)
        except RouteError:
            return False

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

    def _request(self, flags: int, payload: bytes, kind: int = _GET) -> list[bytes]:
        try:
            return list(self._netlink.request(kind, flags, payload))
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


def _rule(body: bytes) -> tuple[object, ...]:
    """A rule of routing: its header but for the table, and its attributes by number."""
    header = _RULE.unpack_from(body)
    fields = attributes(body[_RULE.size :])
    fields.pop(_RULE_PROTOCOL, None)
    return (*header[1:4], *header[5:], frozenset(fields.items()))


def _usual_rule(priority: int, table: int) -> tuple[object, ...]:
    fields = {_RULE_TABLE: table, _RULE_SUPPRESS: 0xFFFFFFFF, **({_RULE_PRIORITY: priority} if priority else {})}
    packed = frozenset((kind, struct.pack("=I", value)) for kind, value in fields.items())
    return (0, 0, 0, 0, 0, _TO_TABLE, 0, packed)


_RULES = {
    IPV4: frozenset({_usual_rule(0, 255), _usual_rule(32766, 254), _usual_rule(32767, 253)}),
    IPV6: frozenset({_usual_rule(0, 255), _usual_rule(32766, 254)}),
}
"""Those that the kernel has when nobody has made others (``ip rule``)."""


def _refusing(family: int) -> bool:
    """Whether any route, in any table, makes addresses unreachable. Raises RouteError."""
    try:
        with closing(NetlinkSocket(_NETLINK_ROUTE)) as netlink:
            netlink.filter_in_kernel()
            return any(
                _HEADER.unpack_from(message)[7] == kind
                for kind in _REFUSING
                for message in netlink.request(_GET, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, kind, 0))
            )
    except NetlinkError as error:
        raise RouteError(error.code) from error
    except OSError as error:
        raise RouteError(error.errno or 0) from error


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
