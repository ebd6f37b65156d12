# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's connection tracking, over netlink (``nfnetlink_conntrack.h``). Needs neither conntrack(8) nor pyroute2.

Everything that can fail raises ConntrackError.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from functools import lru_cache

from .._model.addresses import IPV4, IPV6
from .._objects.conntrack import Endpoint, Flow
from .netlink import NLM_F_DUMP, NetlinkError, NetlinkSocket, attribute, attributes, nested

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_GET, _DELETE, _GET_STATS = 1, 2, 5
_TUPLE_ORIG, _TUPLE_REPLY, _PROTOINFO, _ID, _ZONE, _FILTER = 1, 2, 4, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_ATTRIBUTES: dict[int, tuple[int, int]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
"""Of a tuple's source and destination address."""
_PROTO_NUM, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL = struct.pack("=I", 1 << 3)
"""CTA_FILTER_F_CTA_PROTO_NUM (``nf_internals.h``)."""
_TIME_WAIT, _CLOSE = 7, 8
_FAMILIES: dict[int, str] = {socket.AF_INET: IPV4, socket.AF_INET6: IPV6}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_NUMBERS = {name: number for number, name in _PROTOCOLS.items()}


_NOT_OFFERED = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)


class ConntrackError(Exception):
    """Connection tracking cannot be read or changed; the text is one line. code: errno."""

    def __init__(self, doing: str, code: int) -> None:
        reason = os.strerror(code)
        if code == errno.EPERM:
            reason = "not permitted: CAP_NET_ADMIN is needed in this network namespace"
        elif code in _NOT_OFFERED:
            reason = "the kernel does not offer it (module nf_conntrack_netlink)"
        super().__init__(f"connection tracking: {doing} over netlink: {reason}")
        self.code = code


class NoConntrackError(ConntrackError):
    """The kernel does not offer it."""


class Conntrack:
    """The entries of this network namespace. Nothing is opened before it is needed."""

    def __init__(self) -> None:
        self._netlink: NetlinkSocket | None = None

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()

    def probe(self) -> None:
        """Raise ConntrackError where entries cannot be read."""
        self._request("reading it", _GET_STATS, 0, socket.AF_UNSPEC)

    def flows(self, protocols: Iterable[str]) -> list[Flow]:
        """The entries of both address families that have one of these protocols (``tcp``, ``udp``, ``sctp``)."""
        found: dict[bytes, Flow] = {}
        for number in (_NUMBERS[protocol] for protocol in protocols):
            for family in _FAMILIES:
                for message in self._request("reading it", _GET, NLM_F_DUMP, family, _only(number)):
                    flow = _decode(message, number)
                    if flow is not None:
                        found[flow.key] = flow
        return list(found.values())

    def delete(self, flow: Flow) -> bool:
        """Remove an entry; False when it was gone already."""
        family = socket.AF_INET if flow.family == IPV4 else socket.AF_INET6
        try:
            self._request("deleting an entry", _DELETE, 0, family, flow.key)
        except ConntrackError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def _request(self, doing: str, kind: int, flags: int, family: int, payload: bytes = b"") -> list[bytes]:
        header = struct.pack("!BBH", family, 0, 0)
        try:
            if self._netlink is None:
                self._netlink = NetlinkSocket(_NETLINK_NETFILTER)
            return list(self._netlink.request(_SUBSYSTEM | kind, flags, header + payload))
        except NetlinkError as error:
            kind_of = NoConntrackError if error.code in _NOT_OFFERED else ConntrackError
            raise kind_of(doing, error.code) from error
        except OSError as error:
            raise ConntrackError(doing, error.errno or 0) from error


def _only(protocol: int) -> bytes:
    """The filter of a dump. Kernels before 5.8 do not know it and send all."""
    wanted = nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol])))
    return nested(_FILTER, attribute(_FILTER_ORIG_FLAGS, _BY_PROTOCOL)) + nested(_TUPLE_ORIG, wanted)


def _decode(message: bytes, number: int) -> Flow | None:
    """The entry in an answer; None for one of another address family or protocol."""
    family = message[0]
    fields = attributes(message[4:])
    original = _decode_tuple(fields.get(_TUPLE_ORIG, b""), family, number)
    reply = _decode_tuple(fields.get(_TUPLE_REPLY, b""), family, number)
    if original is None or reply is None:
        return None
    key = nested(_TUPLE_ORIG, fields[_TUPLE_ORIG])
    key += b"".join(attribute(kind, fields[kind]) for kind in (_ZONE, _ID) if kind in fields)
    live = _tcp_state(fields.get(_PROTOINFO, b"")) not in (_TIME_WAIT, _CLOSE)
    return Flow(_PROTOCOLS[number], _FAMILIES[family], original[1], reply[0], live, key)


def _decode_tuple(payload: bytes, family: int, number: int) -> tuple[Endpoint, Endpoint] | None:
    """Source and destination."""
    parts = attributes(payload)
    addresses, ports = attributes(parts.get(_TUPLE_IP, b"")), attributes(parts.get(_TUPLE_PROTO, b""))
    if family not in _FAMILIES or ports.get(_PROTO_NUM) != bytes([number]):
        return None
    source, destination = (_text(family, addresses[kind]) for kind in _IP_ATTRIBUTES[family])
    ends = [int.from_bytes(ports[kind], "big") for kind in (_SOURCE_PORT, _DESTINATION_PORT)]
    return (source, ends[0]), (destination, ends[1])


def _tcp_state(payload: bytes) -> int | None:
    state = attributes(attributes(payload).get(_PROTOINFO_TCP, b"")).get(_TCP_STATE)
    return state[0] if state else None


@lru_cache(maxsize=4096)
def _text(family: int, packed: bytes) -> str:
    return socket.inet_ntop(family, packed)
