# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a node announces addresses to the network outside: its settings, parsed and validated. Pure.

Every value that can get into the text of a daemon's configuration is an address in canonical spelling, an integer, or a name of `_INTERFACE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._model import addresses as ip
from .._model.messages import quoted

NONE, VRRP, BGP = ("none", "vrrp", "bgp")
HIGHEST_PRIORITY = 254
"""Of a node that does not own the addresses (RFC 5798, section 5.2.4); the least is 1."""
_HIGHEST_ASN = 4294967294
_RESERVED_ASNS = (23456, 65535)
"""AS_TRANS (RFC 6793), and the last of 16 bits (RFC 7300), which also ends the range."""
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_FIT_INTERFACE = "must be the name of a network interface, 1 to 15 characters of A-Z, a-z, 0-9, '_', '.' and '-'"
_SPELLED = {ip.IPV4: "IPv4", ip.IPV6: "IPv6"}


class InvalidAnnouncement(Exception):
    """The settings are no announcement. problems: one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class AnnouncingNode(NamedTuple):
    """A node that announces the same addresses."""

    name: str
    addresses: Mapping[str, str]
    """By family: of its own, by which the others reach it."""


class Neighbor(NamedTuple):
    """A router to which a node announces by BGP."""

    address: str
    asn: int
    bfd: bool

    @property
    def family(self) -> str:
        return ip.family_of(self.address)


class Announcement(NamedTuple):
    """How a node announces."""

    method: str
    """VRRP or BGP"""
    vips: bool
    """Whether virtual IPs are announced, too."""
    own: AnnouncingNode
    nodes: Sequence[AnnouncingNode]
    """In the order of their priorities, this one included; VRRP alone."""
    interface: str | None
    """That gets the addresses; None: the one that has the node's own address. VRRP alone."""
    vrrp_id: int
    asn: int
    neighbors: Sequence[Neighbor]

    @property
    def priority(self) -> int:
        return HIGHEST_PRIORITY - [one.name for one in self.nodes].index(self.own.name)

    def peers(self, family: str) -> list[str]:
        """Return the addresses of the other nodes."""
        others = (one for one in self.nodes if one.name != self.own.name)
        return [one.addresses[family] for one in others if family in one.addresses]


def parse_announcement(settings: Mapping[str, Any]) -> Announcement | None:
    """Return how a node announces, None where it does not. settings: `settings.SPECIFICATION`. Raises InvalidAnnouncement."""
    method = settings.get("announce") or NONE
    if method == NONE:
        return None
    problems: list[str] = []
    name = str(settings["name"])
    own = _node(name, settings["announce_address"] or (), problems)
    given = settings["announce_nodes"] or ()
    nodes = [own if one["name"] == name else _node(one["name"], one["address"] or (), problems) for one in given]
    if name not in [one.name for one in nodes]:
        nodes.insert(0, own)
    neighbors = [_neighbor(index, one, problems) for index, one in enumerate(settings["bgp_neighbors"] or ())]
    problems += _vrrp_problems(settings, nodes) if method == VRRP else _bgp_problems(settings)
    if problems:
        raise InvalidAnnouncement(problems)
    return Announcement(
        method,
        bool(settings["announce_vips"]),
        own,
        nodes,
        settings["vrrp_interface"],
        settings["vrrp_id"],
        settings["bgp_asn"] or 0,
        [one for one in neighbors if one],
    )


def is_fit_interface(name: str) -> bool:
    """Return whether the name of an interface can stand in a daemon's configuration, whoever has given it."""
    return bool(_INTERFACE.fullmatch(name))


def _node(name: str, given: Sequence[str], problems: list[str]) -> AnnouncingNode:
    found: dict[str, str] = {}
    for index, text in enumerate(given):
        address = _address(text)
        if not address or ip.family_of(address) in found:
            problems.append(
                f"service_proxy_announce_address[{index}] of {name} is {quoted(text)}: must be the IP address by which the other "
                "nodes reach it, one of each family at most"
            )
        else:
            found[ip.family_of(address)] = address
    return AnnouncingNode(name, found)


def _address(text: Any) -> str:
    """The canonical spelling of an address that a host can have; empty where it is none."""
    try:
        address = ip.canonical_address(str(text))
    except ValueError:
        return ""
    return "" if ip.unfit_for_service(address) else address


def _neighbor(index: int, given: Mapping[str, Any], problems: list[str]) -> Neighbor | None:
    where = f"service_proxy_bgp_neighbors[{index}]"
    address, asn = _address(given["address"]), given["asn"]
    if not address:
        problems.append(f"{where}: address is {quoted(given['address'])}: must be the IP address of a router")
    if not _is_asn(asn):
        problems.append(f"{where}: asn is {quoted(asn)}: must be {_ASN}")
    return Neighbor(address, asn, bool(given.get("bfd")))


_ASN = f"the number of an autonomous system, 1 to {_HIGHEST_ASN}, none of {', '.join(map(str, _RESERVED_ASNS))}"


def _is_asn(value: Any) -> bool:
    return isinstance(value, int) and 1 <= value <= _HIGHEST_ASN and value not in _RESERVED_ASNS


def _vrrp_problems(settings: Mapping[str, Any], nodes: Sequence[AnnouncingNode]) -> list[str]:
    problems = []
    interface, number = settings["vrrp_interface"], settings["vrrp_id"]
    if interface is not None and not is_fit_interface(interface):
        problems.append(f"service_proxy_vrrp_interface is {quoted(interface)}: {_FIT_INTERFACE}")
    if not 1 <= number <= 255:
        problems.append(f"service_proxy_vrrp_id is {number}: must be an integer from 1 to 255")
    if len(nodes) > HIGHEST_PRIORITY - 1:
        problems.append(
            f"service_proxy_announce is vrrp on {len(nodes)} nodes: must be {HIGHEST_PRIORITY - 1} at most (bgp has no such limit)"
        )
    owners: dict[str, str] = {}
    return problems + [
        f"service_proxy_announce_address of {owners[address]} and of {node.name} is {address}: must be different"
        for node in nodes
        for address in node.addresses.values()
        if owners.setdefault(address, node.name) != node.name
    ]


def _bgp_problems(settings: Mapping[str, Any]) -> list[str]:
    problems = []
    if not _is_asn(settings["bgp_asn"]):
        problems.append(f"service_proxy_bgp_asn is {quoted(settings['bgp_asn'])}: must be {_ASN}")
    neighbors = settings["bgp_neighbors"] or ()
    if not neighbors:
        problems.append(
            "service_proxy_bgp_neighbors is []: must have a router at least, since service_proxy_announce is bgp"
        )
    seen: set[str] = set()
    for one in neighbors:
        address = _address(one["address"])
        if address and address in seen:
            problems.append(f"service_proxy_bgp_neighbors has {address} twice: an address is allowed once")
        seen.add(address)
    return problems


def spelled(family: str) -> str:
    """Return ``IPv4`` or ``IPv6``."""
    return _SPELLED[family]
