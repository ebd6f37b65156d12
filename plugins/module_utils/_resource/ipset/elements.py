# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Elements of ipsets as users spell them, in the spelling of ``ipset save``. Pure, but for the host's service names.

A range, or a network where single addresses are stored, becomes all that it stands for.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import Callable, Union

from ..._model import addresses as ip
from ..._model.fields import Problem, quoted
from ..._objects.ipset import ICMP_PROTOCOLS, IPV4, IPV6, MAX_NAME, PROTOCOLS, SET_TYPES, SetHeader

LONGEST_RANGE = 65536
"""The most elements that one spelling stands for; more are better stored as networks."""
NAME = re.compile(r"(?!-)[^\s\x00-\x20\"'\\,\x7f-\U0010ffff]{1," + str(MAX_NAME) + "}")
"""Names that ipset(8) and iptables can be handed without quotes. The kernel takes any."""
ALLOWED_NAME = (
    f"1 to {MAX_NAME} printable ASCII characters without blanks, quotes, commas and backslashes, no dash first"
)

Values = tuple[str, ...]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

_KINDS = {IPV4: "an IPv4", IPV6: "an IPv6"}
_SAMPLES = {IPV4: ("10.0.0.1-10.0.0.9", "10.0.0.0/24"), IPV6: ("2001:db8::1-2001:db8::9", "2001:db8::/64")}
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_ICMP = re.compile(r"([0-9]{1,3})/([0-9]{1,3})", re.ASCII)
_BYTE = re.compile(r"[0-9]{1,3}", re.ASCII)
_ALIASES = {"ipv6-icmp": "icmpv6"}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def element_parser(header: SetHeader) -> Callable[[str], Values]:
    """What makes the elements of one spelling. It raises Problem."""
    parts = SET_TYPES[header.type].parts
    if parts == ("set",):
        return _set_name
    if parts == ("port",):
        first, last = header.ports or (0, 65535)
        return lambda text: _bitmap_ports(text, first, last)
    parsers = [_part_parser(header, index, part) for index, part in enumerate(parts)]
    shape = ",".join(parts)

    def parse(text: str) -> Values:
        pieces = text.split(",")
        if len(pieces) != len(parsers):
            raise Problem(f"{shape}, as {header.type} holds it")
        values = [parser(piece) for parser, piece in zip(parsers, pieces)]
        return values[0] if len(values) == 1 else _product(values)

    return parse


def _product(values: list[Values]) -> Values:
    size = 1
    for alternatives in values:
        size *= len(alternatives)
    if size > LONGEST_RANGE:
        raise Problem(f"at most {LONGEST_RANGE} elements, and it stands for {size}")
    return tuple([",".join(combined) for combined in product(*values)])


def _part_parser(header: SetHeader, index: int, part: str) -> Callable[[str], Values]:
    if part == "port":
        return lambda text: _ports(text, header.family)
    if part == "net":
        return lambda text: _networks(text, header.family)
    null_allowed = index > 0 or SET_TYPES[header.type].null_address
    return lambda text: _addresses(text, header.family, null_allowed)


@lru_cache(maxsize=1024)
def _set_name(text: str) -> Values:
    if not NAME.fullmatch(text):
        raise Problem(f"the name of a set: {ALLOWED_NAME}")
    return (text,)


def _address(text: str, family: str, allowed: str, whole: str) -> str:
    """One address of the family, in brackets if it is IPv6 and so written. whole: what it is a part of."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    try:
        address = ip.canonical_address(bare)
    except ValueError:
        raise Problem(allowed, whole) from None
    if ip.family_of(address) != family:
        raise Problem(f"{allowed}, as the set has family {family}", whole)
    return address


@lru_cache(maxsize=4096)
def _addresses(text: str, family: str, null_allowed: bool) -> Values:
    """Single addresses, of an address, a range or a network."""
    longest, shortest = _SAMPLES[family]
    allowed = f"{_KINDS[family]} address, a range {longest} or a network {shortest}"
    single = "/" not in text and "-" not in text
    found = (_address(text, family, allowed, text),) if single else _expand(_ranged(text, family, allowed), text)
    if not null_allowed and found[0] in ("0.0.0.0", "::"):
        raise Problem(f"an address other than {found[0]}, which the kernel does not store here", text)
    return found


@lru_cache(maxsize=4096)
def _networks(text: str, family: str) -> Values:
    """Networks, one of a single address without its length. Bits behind the prefix are cut off, as ipset does."""
    longest, shortest = _SAMPLES[family]
    allowed = f"{_KINDS[family]} network {shortest}, an address or a range {longest}"
    if "/" not in text and "-" not in text:
        return (_address(text, family, allowed, text),)
    networks = list(_ranged(text, family, allowed))
    if networks[0].prefixlen == 0:
        halves = [_spelled(half) for half in networks[0].subnets()]
        raise Problem(
            "a network longer than /0, which the kernel does not store: write its halves {} and {}".format(
                *tuple(halves)
            ),
            text,
        )
    return tuple([_spelled(network) for network in networks])


def _ranged(text: str, family: str, allowed: str) -> Iterable[Network]:
    """The networks that a network or range consists of, in order."""
    if "/" in text:
        address, _slash, length = text.partition("/")
        start = _address(address, family, allowed, text)
        if not _BYTE.fullmatch(length) or int(length) > (32 if family == IPV4 else 128):
            raise Problem(allowed, text)
        return [ipaddress.ip_network(f"{start}/{length}", strict=False)]
    first, _dash, last = text.partition("-")
    low = ipaddress.ip_address(_address(first, family, allowed, text))
    high = ipaddress.ip_address(_address(last, family, allowed, text))
    if int(high) < int(low):
        raise Problem("a range from its lowest to its highest address", text)
    return ipaddress.summarize_address_range(low, high)


def _expand(networks: Iterable[Network], text: str) -> Values:
    found: list[str] = []
    for network in networks:
        if len(found) + network.num_addresses > LONGEST_RANGE:
            raise Problem(f"at most {LONGEST_RANGE} addresses; larger ranges fit a set of networks", text)
        found += [ip.canonical_address(str(address)) for address in network]
    return tuple(found)


def _spelled(network: Network) -> str:
    address = ip.canonical_address(str(network.network_address))
    return address if network.prefixlen == network.max_prefixlen else f"{address}/{network.prefixlen}"


@lru_cache(maxsize=4096)
def _ports(text: str, family: str) -> Values:
    """``protocol:port`` of ``[protocol:]port[-port]``; tcp where none is given."""
    word, colon, rest = text.partition(":")
    protocol, number = (_protocol(word, text), rest) if colon else ("tcp", word)
    if protocol in ICMP_PROTOCOLS:
        return (_icmp(protocol, number, family, text),)
    if protocol not in PROTOCOLS and number != "0":
        raise Problem("the port 0 with this protocol, which has no ports", text)
    if protocol not in PROTOCOLS:
        return (f"{protocol}:0",)
    first, last = _port_range(number, protocol, text)
    return tuple([f"{protocol}:{port}" for port in range(first, last + 1)])


def _protocol(word: str, whole: str) -> str:
    """The name of a protocol with ports, the number of any other, whose name is not known everywhere."""
    word = _ALIASES.get(word.lower(), word.lower())
    if word in PROTOCOLS:
        return word
    try:
        number = int(word) if _BYTE.fullmatch(word) else socket.getprotobyname(word)
    except OSError:
        number = 0
    if not 1 <= number <= 255:
        raise Problem(f"a port with one of {', '.join(PROTOCOLS)} before it, or another protocol with port 0", whole)
    return _PROTOCOL_NAMES.get(number, str(number))


def _icmp(protocol: str, number: str, family: str, text: str) -> str:
    found = _ICMP.fullmatch(number)
    if not found or max(int(found.group(1)), int(found.group(2))) > 255:
        raise Problem(f"{protocol}:TYPE/CODE, both numbers from 0 to 255", text)
    if ICMP_PROTOCOLS[protocol] != family:
        raise Problem(f"of a protocol that {family} has, which {protocol} is not", text)
    return f"{protocol}:{found.group(1)}/{found.group(2)}"


def _bitmap_ports(text: str, first: int, last: int) -> Values:
    protocol, colon, number = text.rpartition(":")
    protocol = protocol.lower() if colon else "tcp"
    if protocol not in PROTOCOLS or protocol in ICMP_PROTOCOLS:
        raise Problem("a port, or a port with one of tcp, udp, sctp, udplite before it")
    low, high = _port_range(number, protocol, text)
    if low < first or high > last:
        raise Problem(f"inside the set's range {first}-{last}")
    return tuple([str(port) for port in range(low, high + 1)])


def _port_range(text: str, protocol: str, whole: str) -> tuple[int, int]:
    """First and last port, of one, two or a service's name."""
    found = _PORTS.fullmatch(text)
    if found:
        first, last = int(found.group(1)), int(found.group(2) or found.group(1))
    else:
        first = last = _service_port(text, protocol, whole)
    if not first <= last <= 65535:
        raise Problem("a port from 0 to 65535, or a range 80-90 from its lowest to its highest port", whole)
    return first, last


def _service_port(name: str, protocol: str, whole: str) -> int:
    try:
        return socket.getservbyname(name, "udp" if protocol == "udplite" else protocol)
    except OSError:
        raise Problem(
            f"a port from 0 to 65535, a range of ports, or a service that this host knows for {protocol}", whole
        ) from None


def name_problem(name: str) -> str:
    """Why this cannot be the name of a set; empty when it can."""
    return "" if NAME.fullmatch(name) else f"set is {quoted(name)}: must be {ALLOWED_NAME}"
