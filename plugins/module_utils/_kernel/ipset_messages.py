# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets and entries as the attributes of the kernel's ipset protocol (``linux/netfilter/ipset/ip_set.h``).

Encoded here and not by pyroute2: its ipset does not know ``nomatch`` and takes elements in a form of its own, 60,000
entries take it a hundred times as long, and without it sets need nothing on the managed host but Python.
"""

from __future__ import annotations

import socket
import struct
from typing import Callable

from .._objects.ipset import IPV4, IPV6, NO_FAMILY, PROTOCOLS, SET_TYPES, Entry, HeldSet, SetHeader
from .netlink import NLA_F_NET_BYTEORDER, attribute, attributes, each_attribute, nested

PROTOCOL = 6
"""The version of the protocol: the oldest that kernels still speak, and it has all that is needed."""

ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY, ATTR_FLAGS, ATTR_DATA, ATTR_ADT = range(1, 9)
ATTR_SETNAME2, ATTR_LINENO, ATTR_REVISION_MIN = 3, 9, 10

_IP, _PORT_TO, _CIDR, _PORT, _TIMEOUT, _PROTO, _CADT_FLAGS = 1, 5, 3, 4, 6, 7, 8
_MARKMASK, _BITMASK, _HASHSIZE, _MAXELEM, _NETMASK, _BUCKETSIZE, _REFERENCES = 11, 12, 18, 19, 20, 21, 25
_NAME, _IP2, _CIDR2, _BYTES, _PACKETS, _COMMENT = 18, 20, 21, 24, 25, 26
_IPADDR_IPV4, _IPADDR_IPV6 = 1, 2

FLAG_LIST_HEADER = 1 << 2
_NOMATCH, _WITH_COUNTERS, _WITH_COMMENT, _WITH_FORCEADD, _WITH_SKBINFO = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6

NFPROTO = {NO_FAMILY: 0, IPV4: 2, IPV6: 10}
_FAMILIES = {number: family for family, number in NFPROTO.items()}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_ICMP = (PROTOCOLS["icmp"], PROTOCOLS["icmpv6"])


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """In network byte order, as the protocol has nearly all numbers."""
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack(">I", value))


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack(">H", value))


def _u64(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack(">Q", value))


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def to_text(payload: bytes) -> str:
    return payload.split(b"\0", 1)[0].decode(errors="surrogateescape")


def encode_header(header: SetHeader) -> bytes:
    """The nested attributes of a create message."""
    flags = (
        (header.counters and _WITH_COUNTERS) | (header.comment and _WITH_COMMENT) | (header.forceadd and _WITH_FORCEADD)
    )
    parts = [u32(_CADT_FLAGS, flags)] if flags else []
    for kind, number in ((_TIMEOUT, header.timeout), (_HASHSIZE, header.hashsize), (_MAXELEM, header.maxelem)):
        if number is not None:
            parts.append(u32(kind, number))
    if header.bucketsize is not None:
        parts.append(u8(_BUCKETSIZE, header.bucketsize))
    if header.ports is not None:
        parts += [_u16(_PORT, header.ports[0]), _u16(_PORT_TO, header.ports[1])]
    return nested(ATTR_DATA, *parts)


def decode_header(message: dict[int, bytes]) -> HeldSet:
    """A set without its entries, from the first message of its dump."""
    given = attributes(message[ATTR_DATA])
    flags = _number(given.get(_CADT_FLAGS, b""))
    type_name = to_text(message[ATTR_TYPENAME])
    family = _FAMILIES.get(message[ATTR_FAMILY][0], NO_FAMILY)
    optional = {kind: _number(given[kind]) for kind in (_TIMEOUT, _HASHSIZE, _MAXELEM, _BUCKETSIZE) if kind in given}
    header = SetHeader(
        name=to_text(message[ATTR_SETNAME]),
        type=type_name,
        family=family if type_name not in SET_TYPES or SET_TYPES[type_name].has_family else NO_FAMILY,
        timeout=optional.get(_TIMEOUT),
        counters=bool(flags & _WITH_COUNTERS),
        comment=bool(flags & _WITH_COMMENT),
        hashsize=optional.get(_HASHSIZE),
        maxelem=optional.get(_MAXELEM),
        ports=(_number(given[_PORT]), _number(given[_PORT_TO])) if type_name == "bitmap:port" else None,
        bucketsize=optional.get(_BUCKETSIZE),
        forceadd=bool(flags & _WITH_FORCEADD),
        revision=message[ATTR_REVISION][0],
    )
    extensions = ["skbinfo"] if flags & _WITH_SKBINFO else []
    extensions += [
        word for word, kind in (("netmask", _NETMASK), ("bitmask", _BITMASK), ("markmask", _MARKMASK)) if kind in given
    ]
    return HeldSet(header, _number(given.get(_REFERENCES, b"")), tuple(extensions), {})


def start_of_comment(start: str) -> bytes:
    """What stands in an entry whose comment begins so."""
    return struct.pack("=H", _COMMENT) + start.encode()


def packed_address(address: str) -> bytes:
    """What stands in an entry that has an address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def encode_entry(parts: tuple[str, ...], entry: Entry, line: int) -> bytes:
    """One entry of an add message. parts: of the set's type. line: what an error about the entry will name."""
    encoded = _encode_element(parts, entry.element)
    if entry.timeout is not None:
        encoded.append(u32(_TIMEOUT, entry.timeout))
    if entry.nomatch:
        encoded.append(u32(_CADT_FLAGS, _NOMATCH))
    if entry.comment:
        encoded.append(text(_COMMENT, entry.comment))
    if entry.packets is not None:
        encoded.append(_u64(_PACKETS, entry.packets))
    if entry.bytes is not None:
        encoded.append(_u64(_BYTES, entry.bytes))
    encoded.append(attribute(ATTR_LINENO, struct.pack("=I", line)))
    return nested(ATTR_DATA, *encoded)


def _encode_element(parts: tuple[str, ...], element: str) -> list[bytes]:
    if parts == ("set",):
        return [text(_NAME, element)]
    encoded: list[bytes] = []
    ip, cidr = _IP, _CIDR
    for part, value in zip(parts, element.split(",")):
        if part == "port":
            encoded += _encode_port(value)
        else:
            encoded += _encode_address(part, value, ip, cidr)
            ip, cidr = _IP2, _CIDR2
    return encoded


def _encode_address(part: str, value: str, ip: int, cidr: int) -> list[bytes]:
    address, _slash, length = value.partition("/")
    kind, longest = (_IPADDR_IPV6, 128) if ":" in address else (_IPADDR_IPV4, 32)
    encoded = [nested(ip, attribute(kind | NLA_F_NET_BYTEORDER, packed_address(address)))]
    if part == "net":
        encoded.append(u8(cidr, int(length) if length else longest))
    return encoded


def _encode_port(value: str) -> list[bytes]:
    protocol, colon, port = value.partition(":")
    if not colon:
        return [_u16(_PORT, int(value))]
    number = PROTOCOLS.get(protocol)
    if number in _ICMP:
        kind, _slash, code = port.partition("/")
        port = str(int(kind) << 8 | int(code))
    return [_u16(_PORT, int(port)), u8(_PROTO, int(protocol) if number is None else number)]


def entry_decoder(header: SetHeader) -> Callable[[bytes], Entry]:
    """What makes an Entry of the payload of one entry in a dump."""
    element_of = _element_decoder(header.type)

    def decode(payload: bytes) -> Entry:
        given = dict(each_attribute(payload))
        return Entry(
            element_of(given),
            _optional(given.get(_TIMEOUT)),
            to_text(given[_COMMENT]) if _COMMENT in given else None,
            _optional(given.get(_PACKETS)),
            _optional(given.get(_BYTES)),
            bool(_number(given.get(_CADT_FLAGS, b"")) & _NOMATCH),
        )

    return decode


def _optional(payload: bytes | None) -> int | None:
    return None if payload is None else int.from_bytes(payload, "big")


def _element_decoder(type_name: str) -> Callable[[dict[int, bytes]], str]:
    parts = SET_TYPES[type_name].parts
    if parts == ("set",):
        return lambda given: to_text(given[_NAME])
    if parts == ("port",):
        return lambda given: str(_number(given[_PORT]))
    decoders: list[Callable[[dict[int, bytes]], str]] = []
    ip, cidr = _IP, _CIDR
    for part in parts:
        if part == "port":
            decoders.append(_decode_port)
        else:
            decoders.append(_address_decoder(ip, cidr))
            ip, cidr = _IP2, _CIDR2
    return lambda given: ",".join([decode(given) for decode in decoders])


def _address_decoder(ip: int, cidr: int) -> Callable[[dict[int, bytes]], str]:
    def decode(given: dict[int, bytes]) -> str:
        packed = given[ip][4:]
        address = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
        length = given.get(cidr)
        return address if length is None or length[0] == 8 * len(packed) else f"{address}/{length[0]}"

    return decode


def _decode_port(given: dict[int, bytes]) -> str:
    number, port = given[_PROTO][0], _number(given[_PORT])
    protocol = _PROTOCOL_NAMES.get(number, str(number))
    return f"{protocol}:{port >> 8}/{port & 255}" if number in _ICMP else f"{protocol}:{port}"
