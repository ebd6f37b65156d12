# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What virtual services and destinations of IPVS are, and how ``ipvsadm -Sn`` writes them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from .._model import addresses as ip
from .conntrack import Endpoint

HOST_LENGTH = {family: ip.bits(family) for family in ip.FAMILIES}
"""The netmask with which every client is on its own."""
SCHEDULER_FLAGS: dict[str, tuple[str, ...]] = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}
"""In the order of the kernel's bits; other schedulers know none."""
OTHER_FLAGS = ("flag-1", "flag-2", "flag-3")
"""What ipvsadm(8) calls bits that have no name with a scheduler."""

_PROTOCOL_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_METHOD_OPTIONS = {"masquerade": "-m", "direct": "-g", "tunnel": "-i"}
_IPIP, _GUE, _GRE = 0, 1, 2
_TUNNEL_TYPES = {_IPIP: "ipip", _GUE: "gue", _GRE: "gre"}
_TUNNEL_CHECKSUMS = {0: "--tun-nocsum", 1: "--tun-csum", 2: "--tun-remcsum"}


class ServiceKey(NamedTuple):
    """What a virtual service is found by: an address and port of a protocol, or (protocol empty) a firewall mark."""

    family: str
    protocol: str
    address: str
    port: int
    fwmark: int


class VirtualService(NamedTuple):
    """scheduler_flags: sorted, of `SCHEDULER_FLAGS` or `OTHER_FLAGS`. persistence_timeout: seconds, 0 for none.
    netmask: prefix length of the networks whose clients stay together, `HOST_LENGTH` without persistence.
    one_packet: each datagram is scheduled anew. persistence_engine: what tells clients apart by more than their address (``sip``).
    """

    key: ServiceKey
    scheduler: str
    scheduler_flags: tuple[str, ...]
    persistence_timeout: int
    netmask: int
    one_packet: bool
    persistence_engine: str = ""


class Destination(NamedTuple):
    """forward_method: ``masquerade``, ``direct`` or ``tunnel``. thresholds: connections, 0 for none. tunnel: type, port and flags
    of the kernel's (``IP_VS_CONN_F_TUNNEL_TYPE_*``, ``IP_VS_TUNNEL_ENCAP_FLAG_*``).
    """

    address: str
    port: int
    forward_method: str
    weight: int
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: tuple[int, int, int] = (0, 0, 0)


class HeldService(NamedTuple):
    """A virtual service with its destinations."""

    service: VirtualService
    destinations: dict[Endpoint, Destination]


class Timeouts(NamedTuple):
    """Seconds after which idle connections are forgotten."""

    tcp: int
    tcpfin: int
    udp: int


class AddService(NamedTuple):
    """A virtual service without destinations."""

    service: VirtualService


class SetService(NamedTuple):
    """A virtual service that is there, all of its settings."""

    service: VirtualService


class DeleteService(NamedTuple):
    """A virtual service with all its destinations."""

    key: ServiceKey


class AddDestination(NamedTuple):
    key: ServiceKey
    destination: Destination


class SetDestination(NamedTuple):
    """A destination that is there, all of its settings."""

    key: ServiceKey
    destination: Destination


class DeleteDestination(NamedTuple):
    key: ServiceKey
    endpoint: Endpoint


IpvsChange = Union[AddService, SetService, DeleteService, AddDestination, SetDestination, DeleteDestination]


class IpvsRefusedError(Exception):
    """The kernel refused a change. made: those of the changes given that it did make, in their order; as changes travel
    together, some may stand behind the one that was refused.
    """

    made: Sequence[IpvsChange] = ()


def sort_key(key: ServiceKey) -> tuple[Any, ...]:
    """IPv4 before IPv6, those of addresses before those of marks, then numeric."""
    return (key.family, not key.protocol, key.address and ip.sort_key(key.address), key.port, key.protocol, key.fwmark)


def service_name(key: ServiceKey) -> str:
    """A virtual service in an error: ``tcp 10.0.0.1:80``, or ``fwmark 7 (ipv6)``."""
    if not key.protocol:
        return f"fwmark {key.fwmark} ({key.family})"
    return f"{key.protocol} {ip.endpoint(key.address, key.port)}"


def service_words(key: ServiceKey) -> list[str]:
    """What names a virtual service in a line of ipvsadm(8)."""
    if not key.protocol:
        return ["-f", str(key.fwmark)] + (["-6"] if key.family == ip.IPV6 else [])
    return [_PROTOCOL_OPTIONS[key.protocol], ip.endpoint(key.address, key.port)]


def service_line(service: VirtualService) -> str:
    """The virtual service as ``ipvsadm -Sn`` writes it."""
    words = ["-A", *service_words(service.key), "-s", service.scheduler]
    if service.persistence_timeout:
        words += ["-p", str(service.persistence_timeout)]
        if service.netmask != HOST_LENGTH[service.key.family]:
            words += ["-M", _netmask(service)]
        if service.persistence_engine:
            words += ["--pe", service.persistence_engine]
    if service.one_packet:
        words.append("-o")
    if service.scheduler_flags:
        words += ["-b", ",".join(sorted(service.scheduler_flags, key=flag_number))]
    return " ".join(words)


def flag_number(flag: str) -> int:
    """Which of the kernel's three bits for schedulers a flag is, from 0."""
    for names in (*SCHEDULER_FLAGS.values(), OTHER_FLAGS):
        if flag in names:
            return names.index(flag)
    raise ValueError(flag)


def _netmask(service: VirtualService) -> str:
    """IPv4 as a dotted quad, IPv6 as a length."""
    if service.key.family == ip.IPV6:
        return str(service.netmask)
    bits = (0xFFFFFFFF << (32 - service.netmask)) & 0xFFFFFFFF
    return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))


def destination_line(key: ServiceKey, destination: Destination) -> str:
    """The destination as ``ipvsadm -Sn`` writes it, and its thresholds, which ``ipvsadm -Sn`` leaves out."""
    words = ["-a", *service_words(key), "-r", ip.endpoint(destination.address, destination.port)]
    words += [_METHOD_OPTIONS[destination.forward_method], "-w", str(destination.weight)]
    words += _tunnel_words(destination)
    if destination.upper_threshold:
        words += ["-x", str(destination.upper_threshold)]
    if destination.lower_threshold:
        words += ["-y", str(destination.lower_threshold)]
    return " ".join(words)


def _tunnel_words(destination: Destination) -> list[str]:
    kind, port, flags = destination.tunnel
    if destination.forward_method != "tunnel":
        return []
    words = ["--tun-type", _TUNNEL_TYPES.get(kind, str(kind))]
    words += ["--tun-port", str(port)] if kind == _GUE else []
    return words + ([_TUNNEL_CHECKSUMS.get(flags, str(flags))] if kind != _IPIP else [])
