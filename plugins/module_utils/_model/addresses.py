# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IP addresses and networks as text in the one spelling that the kernel's tools print (``inet_ntop``)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

IPV4 = "ipv4"
IPV6 = "ipv6"
FAMILIES = (IPV4, IPV6)

_AF = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LENGTH = {IPV4: 32, IPV6: 128}
_ORDINARY_OCTETS = frozenset(str(octet) for octet in range(1, 224)) - {"127", "169"}
"""First octets of IPv4 addresses of which none is unfit for a service."""


def family_of(address: str) -> str:
    """``ipv4`` or ``ipv6``, of an address or network in text."""
    return IPV6 if ":" in address else IPV4


@lru_cache(maxsize=None)
def canonical_address(text: str) -> str:
    """An address in the spelling of ``inet_ntop``. ValueError when it is none (a zone or prefix is none)."""
    family = _AF[family_of(text)]
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(text) from error


def is_plain(text: Any) -> bool:
    """Whether it is an IPv4 address that is fit for a service, in the spelling of ``inet_ntop``: so are most."""
    if not isinstance(text, str) or text.partition(".")[0] not in _ORDINARY_OCTETS:
        return False
    try:
        return bool(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        return False


def is_address(text: str) -> bool:
    """Whether it is one in any spelling that `canonical_address` takes."""
    try:
        return bool(canonical_address(text))
    except ValueError:
        return False


@lru_cache(maxsize=None)
def canonical_network(text: str) -> str:
    """A network as ``address/length``; a bare address is a network of one.

    ValueError, with the network that may have been meant, when host bits are set.
    """
    address, slash, length = text.partition("/")
    address = canonical_address(address)
    longest = _LENGTH[family_of(address)]
    if not slash:
        return f"{address}/{longest}"
    if not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= longest):
        raise ValueError(text)
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    meant = f"{canonical_address(str(network.network_address))}/{length}"
    if canonical_address(str(network.network_address)) != address:
        raise ValueError(f"{text} has bits set behind its prefix; {meant} may be meant")
    return meant


def host_network(address: str) -> str:
    """The network that holds this address alone."""
    return f"{address}/{_LENGTH[family_of(address)]}"


def bits(family: str) -> int:
    """The length of an address."""
    return _LENGTH[family]


@lru_cache(maxsize=None)
def to_number(address: str) -> int:
    return int.from_bytes(socket.inet_pton(_AF[family_of(address)], address), "big")


def from_number(number: int, family: str) -> str:
    """The reverse of `to_number`."""
    return socket.inet_ntop(_AF[family], number.to_bytes(_LENGTH[family] // 8, "big"))


def network_of(address: str, length: int) -> str:
    """The network of an interface's address and prefix length."""
    return str(ipaddress.ip_interface(f"{address}/{length}").network)


def overlap(network: str, other: str) -> bool:
    """Whether two networks share an address; False for those of different families."""
    return family_of(network) == family_of(other) and bool(_network(network).overlaps(_network(other)))


def is_everything(network: str) -> bool:
    return network.endswith("/0")


def contains(network: str, address: str) -> bool:
    """Whether an address lies in a network; False for the other family."""
    return family_of(network) == family_of(address) and _address(address) in _network(network)


def covering_networks(found: Iterable[str], most: int) -> list[str]:
    """At most so many networks of one length that hold all these addresses of one family; the longest that do."""
    found = list(found)
    if not found:
        return []
    family = family_of(found[0])
    prefixes = set(map(to_number, found))
    length = longest = _LENGTH[family]
    while len(prefixes) > most:
        length -= longest // 8
        prefixes = {prefix >> longest // 8 for prefix in prefixes}
    starts = [from_number(prefix << (longest - length), family) for prefix in sorted(prefixes)]
    return [f"{start}/{length}" for start in starts]


def unfit_for_service(address: str) -> str:
    """Why nothing can be proxied to or from this address; empty when it can.

    The kinds are those that Kubernetes refuses for endpoints and external IPs
    (``ValidateNonSpecialIP``), and those that no connection can have.
    """
    if address.partition(".")[0] in _ORDINARY_OCTETS:
        return ""
    value = _address(address)
    if value.version == 6 and value.ipv4_mapped:
        return "an IPv4-mapped IPv6 address"
    for kind, holds in (
        ("unspecified", value.is_unspecified),
        ("a loopback address", value.is_loopback),
        ("a link-local address", value.is_link_local),
        ("a multicast address", value.is_multicast),
        ("the broadcast address", address == "255.255.255.255"),
    ):
        if holds:
            return kind
    return ""


def endpoint(address: str, port: int) -> str:
    """``address:port``, the address in brackets when it is IPv6 (RFC 3986, section 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def sort_key(address: str) -> tuple[str, bytes]:
    """Numeric order, IPv4 first."""
    family = family_of(address)
    return family, socket.inet_pton(_AF[family], address)


@lru_cache(maxsize=None)
def _address(text: str) -> Any:
    return ipaddress.ip_address(text)


@lru_cache(maxsize=None)
def _network(text: str) -> Any:
    return ipaddress.ip_network(text)
