# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual services and destinations as the attributes of the kernel's IPVS protocol (``linux/ip_vs.h``).

Encoded here and not by pyroute2, whose IPVS (0.9.7) deletes on "update", declares timeouts with wrong types, wants an IPv6
prefix length as a dotted quad, and takes twenty times as long as ipvsadm(8) for thousands of services
(``pyroute2/ipvs.py``, ``pyroute2/netlink/generic/ipvs.py``).
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Any, Callable

from .._model.addresses import IPV4, IPV6
from .._objects.ipvs import (
    HOST_LENGTH,
    OTHER_FLAGS,
    SCHEDULER_FLAGS,
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Destination,
    IpvsChange,
    ServiceKey,
    SetDestination,
    SetService,
    Timeouts,
    VirtualService,
    flag_number,
)
from .netlink import attribute, attributes, nested
from .netlink_layout import Layout, Reader

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(1, 9)
SET_CONFIG, GET_CONFIG = 12, 13
_VERSION = 1

_CMD_SERVICE, _CMD_DEST, _CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP = 1, 2, 4, 5, 6
_AF, _PROTOCOL, _ADDRESS, _PORT, _FWMARK, _SCHEDULER, _FLAGS, _TIMEOUT, _NETMASK = range(1, 10)
_PE_NAME = 11
_DEST_ADDRESS, _DEST_PORT, _METHOD, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE = range(1, 9)
_DEST_AF, _TUN_TYPE, _TUN_PORT, _TUN_FLAGS = 11, 13, 14, 15

_PERSISTENT, _ONE_PACKET, _SCHEDULER_BIT = 0x1, 0x4, 0x8
_KNOWN_FLAGS = _PERSISTENT | _ONE_PACKET | 7 * _SCHEDULER_BIT
"""Bits that are written; the kernel keeps the others, among them 0x2 (hashed), which is its own."""

_AFS = {IPV4: int(socket.AF_INET), IPV6: int(socket.AF_INET6)}
_FAMILIES = {number: family for family, number in _AFS.items()}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_METHODS = {"masquerade": 0, "tunnel": 2, "direct": 3}
_IPIP = (0, 0, 0)
_METHOD_NAMES = {number: name for name, number in _METHODS.items()}


_ADDRESS_KEY = Layout((_AF, "H"), (_PROTOCOL, "H"), (_ADDRESS, "16s"), (_PORT, "H"))
_MARK_KEY = Layout((_AF, "H"), (_FWMARK, "I"))
_SETTINGS = Layout((_FLAGS, "Q"), (_TIMEOUT, "I"), (_NETMASK, "I"))
_ENDPOINT = Layout((_DEST_ADDRESS, "16s"), (_DEST_PORT, "H"), (_DEST_AF, "H"))
_DESTINATION = Layout((_METHOD, "I"), (_WEIGHT, "I"), (_UPPER, "I"), (_LOWER, "I"))
_TUNNEL = Layout((_TUN_TYPE, "B"), (_TUN_PORT, "H"), (_TUN_FLAGS, "H"))


def message(command: int, payload: bytes = b"") -> bytes:
    """A message of the family: ``genlmsghdr`` and attributes."""
    return struct.pack("=BBxx", command, _VERSION) + payload


def request(command: int, key: ServiceKey) -> bytes:
    """A message that names a virtual service."""
    return message(command, _named(key))


def of_service(command: int, attributes_of_it: bytes) -> bytes:
    """The same, for one whose attributes the kernel has sent."""
    return message(command, nested(_CMD_SERVICE, attributes_of_it))


def encode_change(change: IpvsChange) -> bytes:
    """The message that asks for a change."""
    return _ENCODERS[type(change)](change)


@lru_cache(maxsize=64)
def _named(key: ServiceKey) -> bytes:
    """The attribute that names a virtual service; of one with thousands of destinations it is wanted again and again."""
    return nested(_CMD_SERVICE, _encode_key(key))


def _encode_key(key: ServiceKey) -> bytes:
    if not key.protocol:
        return _MARK_KEY.pack(_AFS[key.family], key.fwmark)
    address = _packed(key.address)
    return _ADDRESS_KEY.pack(_AFS[key.family], _PROTOCOLS[key.protocol], address, socket.htons(key.port))


def _packed(address: str) -> bytes:
    """An address at the beginning of ``union nf_inet_addr``, zeros behind it."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _encode_service(command: int, service: VirtualService) -> bytes:
    flags = (service.persistence_timeout and _PERSISTENT) | (service.one_packet and _ONE_PACKET)
    for flag in service.scheduler_flags:
        flags |= _SCHEDULER_BIT << flag_number(flag)
    parts = [
        _encode_key(service.key),
        attribute(_SCHEDULER, service.scheduler.encode() + b"\0"),
        _SETTINGS.pack(_pair(flags, _KNOWN_FLAGS), service.persistence_timeout, _encode_netmask(service)),
    ]
    if service.persistence_engine:
        parts.append(attribute(_PE_NAME, service.persistence_engine.encode() + b"\0"))
    return message(command, nested(_CMD_SERVICE, *parts))


def _pair(flags: int, mask: int) -> int:
    """``struct ip_vs_flags``, two 32-bit words, as one number of this host's byte order."""
    return int(struct.unpack("=Q", struct.pack("=II", flags, mask))[0])


def _encode_netmask(service: VirtualService) -> int:
    """Of IPv4 a mask in network byte order, of IPv6 the prefix length."""
    if service.key.family == IPV6:
        return service.netmask
    return socket.htonl((0xFFFFFFFF << (32 - service.netmask)) & 0xFFFFFFFF)


def _encode_endpoint(address: str, port: int) -> bytes:
    family = IPV6 if ":" in address else IPV4
    return _ENDPOINT.pack(_packed(address), socket.htons(port), _AFS[family])


def _encode_destination(command: int, key: ServiceKey, one: Destination) -> bytes:
    settings = _DESTINATION.pack(_METHODS[one.forward_method], one.weight, one.upper_threshold, one.lower_threshold)
    kind, port, flags = one.tunnel
    tunnel = _TUNNEL.pack(kind, socket.htons(port), flags) if kind else b""
    destination = nested(_CMD_DEST, _encode_endpoint(one.address, one.port), settings, tunnel)
    return message(command, _named(key) + destination)


def _encode_deletion(change: DeleteDestination) -> bytes:
    return message(DEL_DEST, _named(change.key) + nested(_CMD_DEST, _encode_endpoint(*change.endpoint)))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    AddService: lambda change: _encode_service(NEW_SERVICE, change.service),
    SetService: lambda change: _encode_service(SET_SERVICE, change.service),
    DeleteService: lambda change: request(DEL_SERVICE, change.key),
    AddDestination: lambda change: _encode_destination(NEW_DEST, change.key, change.destination),
    SetDestination: lambda change: _encode_destination(SET_DEST, change.key, change.destination),
    DeleteDestination: _encode_deletion,
}


_SERVICES = Reader(
    {
        _AF: "H",
        _PROTOCOL: "H",
        _ADDRESS: "16s",
        _PORT: "H",
        _FWMARK: "I",
        _SCHEDULER: "",
        _FLAGS: "I",
        _TIMEOUT: "I",
        _NETMASK: "I",
        _PE_NAME: "",
    }
)
_DESTINATIONS = Reader(
    {
        _DEST_ADDRESS: "16s",
        _DEST_PORT: "H",
        _METHOD: "I",
        _WEIGHT: "i",
        _UPPER: "I",
        _LOWER: "I",
        _ACTIVE: "I",
        _INACTIVE: "I",
        _DEST_AF: "H",
        _TUN_TYPE: "B",
        _TUN_PORT: "H",
        _TUN_FLAGS: "H",
    }
)


def decode_service(body: bytes) -> VirtualService:
    af, protocol, address, port, mark, scheduler, flags, timeout, netmask, engine = _SERVICES.read(body)
    family, name = _FAMILIES[af], _text(scheduler)
    if mark:
        key = ServiceKey(family, "", "", 0, mark)
    else:
        named = _PROTOCOL_NAMES.get(protocol, str(protocol))
        key = ServiceKey(family, named, _address(af, address), socket.ntohs(port), 0)
    persistent = flags & _PERSISTENT
    return VirtualService(
        key,
        name,
        _decode_flags(name, flags // _SCHEDULER_BIT & 7),
        timeout if persistent else 0,
        _decode_netmask(family, netmask) if persistent else HOST_LENGTH[family],
        bool(flags & _ONE_PACKET),
        _text(engine) if engine else "",
    )


def decode_destination(body: bytes, family: str) -> tuple[Destination, int, int]:
    """A destination, its active and its inactive connections. family: of the virtual service, which older kernels imply."""
    address, port, method, weight, upper, lower, active, inactive, af, kind, tunnel_port, tunnel_flags = (
        _DESTINATIONS.read(body)
    )
    at = _address(af or _AFS[family], address)
    tunnel = (kind, socket.ntohs(tunnel_port), tunnel_flags) if kind else _IPIP
    name = _METHOD_NAMES.get(method, "direct")
    return Destination(at, socket.ntohs(port), name, weight, upper, lower, tunnel), active, inactive


@lru_cache(maxsize=1 << 16)
def _address(af: int, packed: bytes) -> str:
    return socket.inet_ntop(af, packed[: 4 if af == socket.AF_INET else 16])


@lru_cache(maxsize=None)
def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="surrogateescape")


@lru_cache(maxsize=None)
def _decode_flags(scheduler: str, bits: int) -> tuple[str, ...]:
    named = SCHEDULER_FLAGS.get(scheduler, ())
    names = (*named, *OTHER_FLAGS[len(named) :])
    return tuple(sorted(name for number, name in enumerate(names) if bits >> number & 1))


def _decode_netmask(family: str, value: int) -> int:
    return value if family == IPV6 else bin(value).count("1")


def encode_timeouts(timeouts: Timeouts) -> bytes:
    kinds = (_CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP)
    return message(SET_CONFIG, b"".join(attribute(kind, struct.pack("=I", one)) for kind, one in zip(kinds, timeouts)))


def decode_timeouts(body: bytes) -> Timeouts:
    given = attributes(body[4:])
    kinds = (_CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP)
    return Timeouts(*(int(struct.unpack("=I", given[kind])[0]) for kind in kinds))
