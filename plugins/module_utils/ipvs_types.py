# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What virtual services and destinations of IPVS are, and how ``ipvsadm -Sn`` writes them. Pure."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple, Union

from . import addresses as ip
from .flow import Endpoint

_PROTOCOL_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_METHOD_OPTIONS = {"masquerade": "-m", "direct": "-g", "tunnel": "-i"}
_HOST_LENGTH = {ip.IPV4: 32, ip.IPV6: 128}


class ServiceKey(NamedTuple):
    """What a virtual service is found by: an address and port of a protocol, or (protocol empty) a firewall mark."""

    family: str
    protocol: str
    address: str
    port: int
    fwmark: int


class VirtualService(NamedTuple):
    """scheduler_flags: sorted, of ``sh-fallback``, ``sh-port``, ``mh-fallback``, ``mh-port``. persistence_timeout: seconds, 0 for
    none. netmask: prefix length of the networks whose clients stay together. one_packet: each datagram is scheduled anew.
    """

    key: ServiceKey
    scheduler: str
    scheduler_flags: Tuple[str, ...]
    persistence_timeout: int
    netmask: int
    one_packet: bool


class Destination(NamedTuple):
    """forward_method: ``masquerade``, ``direct`` or ``tunnel``. thresholds: connections, 0 for none. tunnel: type, port and flags
    of the kernel's.
    """

    address: str
    port: int
    forward_method: str
    weight: int
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: Tuple[int, int, int] = (0, 0, 0)


class HeldService(NamedTuple):
    """A virtual service with its destinations."""

    service: VirtualService
    destinations: Dict[Endpoint, Destination]


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
    """The kernel refused a change. done: how many of the changes that were given had been made before."""

    done = 0


def service_words(key: ServiceKey) -> List[str]:
    """What names a virtual service in a line of ipvsadm(8)."""
    if not key.protocol:
        return ["-f", str(key.fwmark)] + (["-6"] if key.family == ip.IPV6 else [])
    return [_PROTOCOL_OPTIONS[key.protocol], ip.endpoint(key.address, key.port)]


def service_line(service: VirtualService) -> str:
    """The virtual service as ``ipvsadm -Sn`` writes it."""
    words = ["-A", *service_words(service.key), "-s", service.scheduler]
    if service.persistence_timeout:
        words += ["-p", str(service.persistence_timeout)]
        if service.netmask != _HOST_LENGTH[service.key.family]:
            words += ["-M", _netmask(service)]
    if service.one_packet:
        words.append("-o")
    if service.scheduler_flags:
        words += ["-b", ",".join(service.scheduler_flags)]
    return " ".join(words)


def _netmask(service: VirtualService) -> str:
    """IPv4 as a dotted quad, IPv6 as a length."""
    if service.key.family == ip.IPV6:
        return str(service.netmask)
    bits = (0xFFFFFFFF << (32 - service.netmask)) & 0xFFFFFFFF
    return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))


def destination_line(key: ServiceKey, destination: Destination) -> str:
    """The destination as ``ipvsadm -Sn`` writes it."""
    words = ["-a", *service_words(key), "-r", ip.endpoint(destination.address, destination.port)]
    words += [_METHOD_OPTIONS[destination.forward_method], "-w", str(destination.weight)]
    return " ".join(words)
