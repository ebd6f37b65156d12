# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nftables can compare and keep: its data types, and the fields of a packet that rules name. Pure.

A value is the bytes that the kernel holds in a register: addresses and ports in network order, numbers in the host's. The texts are
those of ``nft list ruleset``.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Callable, NamedTuple

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "ipv6-icmp": 58, "sctp": 132, "udplite": 136}
_ADDRESS_TYPES = {
    "unspec": 0,
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
}
_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_STATUS = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512}
_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_INTERFACE_NAME_BYTES = 16
_REMEMBERED = 1 << 14
"""Texts of values: ports, numbers of slots, protocols."""


class DataType(NamedTuple):
    """A type of values as nft(8) knows it."""

    number: int  # nft's own number of the type, which the kernel only keeps
    size: int  # bytes
    is_host_order: bool
    to_text: Callable[[bytes], str]
    from_text: Callable[[str], bytes]


def number(value: int, size: int = 4) -> bytes:
    """Return a number as the kernel holds it in a register, in the host's order."""
    return value.to_bytes(size, sys.byteorder)


def _address_from_text(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@lru_cache(maxsize=_REMEMBERED)
def _port_to_text(value: bytes) -> str:
    return str(value[0] << 8 | value[1])


def _named_to_text(names: dict[int, str], value: bytes) -> str:
    given = int.from_bytes(value, sys.byteorder)
    return names.get(given, str(given))


def _named_from_text(names: dict[str, int], size: int, text: str) -> bytes:
    return number(names[text] if text in names else int(text), size)


def _bits_to_text(names: dict[int, str], value: bytes) -> str:
    given = int.from_bytes(value, sys.byteorder)
    words = [name for bit, name in names.items() if given & bit]
    return ",".join(words) if sum(bit for bit in names if given & bit) == given and given else hex(given)


def _bits_from_text(names: dict[str, int], size: int, text: str) -> bytes:
    return number(sum(names[word] for word in text.split(",")), size)


def _interface_to_text(value: bytes) -> str:
    name = value.rstrip(b"\0").decode(errors="replace")
    return f'"{name}"' if len(value) == _INTERFACE_NAME_BYTES else f'"{name}*"'


def _interface_from_text(text: str) -> bytes:
    """Return the name filled up with zeros; a name that ends in ``*`` is what names begin with."""
    name = text.strip('"').encode()
    return name[:-1] if name.endswith(b"*") else name.ljust(_INTERFACE_NAME_BYTES, b"\0")


def _named(type_number: int, size: int, names: dict[str, int]) -> DataType:
    texts = {value: name for name, value in names.items()}
    to_text = lru_cache(maxsize=_REMEMBERED)(partial(_named_to_text, texts))
    return DataType(type_number, size, size > 1, to_text, partial(_named_from_text, names, size))


def _bits(type_number: int, size: int, names: dict[str, int]) -> DataType:
    texts = {value: name for name, value in names.items()}
    return DataType(type_number, size, size > 1, partial(_bits_to_text, texts), partial(_bits_from_text, names, size))


def _mark_to_text(value: bytes) -> str:
    return f"0x{int.from_bytes(value, sys.byteorder):08x}"


@lru_cache(maxsize=_REMEMBERED)
def _integer_to_text(value: bytes) -> str:
    return str(int.from_bytes(value, sys.byteorder))


def _number_from_text(text: str) -> bytes:
    return number(int(text, 0))


TYPES = {
    "ct_id": DataType(
        4, 4, False, lambda value: str(int.from_bytes(value, "big")), lambda text: int(text).to_bytes(4, "big")
    ),
    "integer": DataType(4, 4, True, _integer_to_text, _number_from_text),
    "ipv4_addr": DataType(7, 4, False, partial(socket.inet_ntop, socket.AF_INET), _address_from_text),
    "ipv6_addr": DataType(8, 16, False, partial(socket.inet_ntop, socket.AF_INET6), _address_from_text),
    "inet_proto": _named(12, 1, _PROTOCOLS),
    "inet_service": DataType(13, 2, False, _port_to_text, lambda text: int(text).to_bytes(2, "big")),
    "tcp_flag": _bits(15, 1, _TCP_FLAGS),
    "mark": DataType(19, 4, True, _mark_to_text, _number_from_text),
    "iface_index": DataType(20, 4, True, _integer_to_text, _number_from_text),
    "ct_state": _bits(26, 4, _STATES),
    "ct_dir": _named(27, 1, {"original": 0, "reply": 1}),
    "ct_status": _bits(28, 4, _STATUS),
    "pkt_type": _named(31, 1, {"host": 0, "broadcast": 1, "multicast": 2, "other": 3}),
    "fib_addrtype": _named(38, 4, _ADDRESS_TYPES),
    "ifname": DataType(41, _INTERFACE_NAME_BYTES, True, _interface_to_text, _interface_from_text),
}
"""By nft's own name of each; to nft the number of a connection is an integer, but of the other order."""

FIELDS = {
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip protocol": "inet_proto",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
    "ip6 nexthdr": "inet_proto",
    "th sport": "inet_service",
    "th dport": "inet_service",
    "tcp flags": "tcp_flag",
    "meta l4proto": "inet_proto",
    "meta mark": "mark",
    "meta pkttype": "pkt_type",
    "iif": "iface_index",
    "oif": "iface_index",
    "iifname": "ifname",
    "oifname": "ifname",
    "ct state": "ct_state",
    "ct status": "ct_status",
    "ct direction": "ct_dir",
    "ct mark": "mark",
    "ct id": "ct_id",
    "ct original ip saddr": "ipv4_addr",
    "ct original ip daddr": "ipv4_addr",
    "ct original ip6 saddr": "ipv6_addr",
    "ct original ip6 daddr": "ipv6_addr",
    "ct original proto-src": "inet_service",
    "ct original proto-dst": "inet_service",
    "fib daddr type": "fib_addrtype",
    "fib saddr type": "fib_addrtype",
    "fib daddr . iif type": "fib_addrtype",
    "fib saddr . iif oif": "iface_index",
}
"""The type of each field, by the words that name it in a rule."""


def pack(type_name: str, text: str) -> bytes:
    """Return a value of this type from nft's text. Raises ValueError or KeyError."""
    return TYPES[type_name].from_text(text)


def unpack(type_name: str, value: bytes) -> str:
    return TYPES[type_name].to_text(value)


def concatenated(values: Iterable[bytes]) -> bytes:
    """Return values one behind the other as a set's key or data: each filled up to four bytes, a single one as it is."""
    parts = list(values)
    return parts[0] if len(parts) == 1 else b"".join(part + bytes(-len(part) % 4) for part in parts)


def split(type_names: Sequence[str], key: bytes) -> list[bytes]:
    """Return the values of a concatenation of these types."""
    values, offset = [], 0
    for name in type_names:
        size = TYPES[name].size
        values.append(key[offset : offset + size])
        offset += size + -size % 4
    return values


def key_size(type_names: Sequence[str]) -> int:
    """Return the bytes of a concatenation of these types, or of a single value."""
    sizes = [TYPES[name].size for name in type_names]
    return sizes[0] if len(sizes) == 1 else sum(size + -size % 4 for size in sizes)


def network(text: str) -> bytes:
    """Return an address or a network as the key of a set with intervals: its first and its last address."""
    given = ipaddress.ip_network(text, strict=False)
    return given.network_address.packed + given.broadcast_address.packed


def interval_to_text(type_name: str, low: bytes, high: bytes) -> str:
    """Return a value, a network or a range, whichever is shortest."""
    if low == high:
        return unpack(type_name, low)
    first, last = int.from_bytes(low, "big"), int.from_bytes(high, "big")
    span = last - first + 1
    if type_name in ("ipv4_addr", "ipv6_addr") and span & (span - 1) == 0 and first % span == 0:
        return f"{unpack(type_name, low)}/{8 * len(low) - span.bit_length() + 1}"
    return f"{unpack(type_name, low)}-{unpack(type_name, high)}"
