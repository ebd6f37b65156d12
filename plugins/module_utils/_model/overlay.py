# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nodes of an overlay, as the inventory has them: parsed and validated as one, so that every node finds the same errors. Pure."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import addresses as ip
from .messages import quoted

ROUTES, VXLAN = "routes", "vxlan"
_HIGHEST_ID = (1 << 24) - 1
_LOWEST_MTU, _HIGHEST_MTU = 1280, 65535
"""The least that IPv6 takes (RFC 8200, section 5)."""
_ADDRESS = "the IP address by which the other nodes reach it, one of each family at most"
_NETWORK = "a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64"


class OverlayNode(NamedTuple):
    """A node and the networks of its backends."""

    name: str
    addresses: Mapping[str, str]
    """By family: in the network that the nodes have in common."""
    networks: Sequence[str]


class OverlaySettings(NamedTuple):
    """What the nodes of an overlay agree about."""

    mode: str
    """ROUTES or VXLAN"""
    id: int
    port: int
    mtu: int | None
    """None: by that of the network that carries the packets."""
    inner: Mapping[str, str]
    """By family: the network of the addresses of the VXLAN devices."""


class _Span(NamedTuple):
    """The addresses of a network of backends, in an order by which it is found."""

    family: str
    first: int
    last: int
    network: str
    owner: str


class OverlayPlan(NamedTuple):
    """An overlay as one node sees it."""

    settings: OverlaySettings
    own: OverlayNode
    others: Sequence[OverlayNode]

    @property
    def nodes(self) -> Sequence[OverlayNode]:
        return [self.own, *self.others]

    @property
    def carrier(self) -> str:
        """The family of the addresses between which VXLAN carries packets."""
        return _common_family(self.nodes)

    @property
    def inner_families(self) -> list[str]:
        """The families that backends have."""
        used = {ip.family_of(network) for node in self.nodes for network in node.networks}
        return [family for family in ip.FAMILIES if family in used]

    def inner_address(self, node: OverlayNode, family: str) -> str:
        """Return the address of a node's VXLAN device: our network with the last bits of the node's own address."""
        network, dummy, length = self.settings.inner[family].partition("/")
        mask = (1 << (ip.bits(family) - int(length))) - 1
        return ip.from_number(ip.to_number(network) | (ip.to_number(node.addresses[self.carrier]) & mask), family)

    def mac(self, node: OverlayNode) -> str:
        """Return the MAC address of a node's VXLAN device, a locally administered one that its address determines."""
        address = node.addresses[self.carrier]
        number = ip.to_number(address)
        raw = number.to_bytes(16, "big") if ":" in address else number.to_bytes(4, "big")
        return (b"\x02\x4c" + (hashlib.sha256(raw).digest()[:4] if len(raw) > 4 else raw)).hex(":")


class InvalidOverlay(Exception):
    """The inventory asks for what no overlay can be. problems: one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def parse_overlay(settings: Mapping[str, Any]) -> OverlayPlan:
    """Return the overlay of a node. settings: `settings.SPECIFICATION` with overlay other than none. Raises InvalidOverlay."""
    problems: list[str] = []
    own = {"name": settings["name"], "address": settings["overlay_address"], "cidrs": settings["backend_cidrs"]}
    others = [one for one in settings["overlay_nodes"] or () if one["name"] != own["name"]]
    nodes = [_node(one, problems) for one in (own, *others)]
    agreed = _settings(settings, problems)
    if problems:
        raise InvalidOverlay(problems)
    found = OverlayPlan(agreed, nodes[0], nodes[1:])
    problems += _problems(found)
    if problems:
        raise InvalidOverlay(problems)
    return found


def _node(raw: Mapping[str, Any], problems: list[str]) -> OverlayNode:
    name, addresses, networks = str(raw["name"]), dict[str, str](), list[str]()
    for index, address in enumerate(raw["address"] or ()):
        wrong = _unfit(address) or ("a second one of its family" if ip.family_of(address) in addresses else "")
        if wrong:
            where = f"service_proxy_overlay_address[{index}] of {name}"
            problems.append(f"{where} is {quoted(address)}: {wrong}: must be {_ADDRESS}")
        else:
            addresses[ip.family_of(address)] = ip.canonical_address(address)
    for index, network in enumerate(raw["cidrs"] or ()):
        try:
            networks.append(ip.canonical_network(network))
        except ValueError:
            where = f"service_proxy_backend_cidrs[{index}] of {name}"
            problems.append(f"{where} is {quoted(network)}: must be {_NETWORK}")
    return OverlayNode(name, addresses, list(dict.fromkeys(networks)))


def _unfit(address: str) -> str:
    """What is wrong with an address; empty if nothing is."""
    try:
        return ip.unfit_for_service(ip.canonical_address(address))
    except ValueError:
        return "no IP address"


def _settings(settings: Mapping[str, Any], problems: list[str]) -> OverlaySettings:
    inner: dict[str, str] = {}
    for index, network in enumerate(settings["vxlan_networks"]):
        where, family = f"service_proxy_vxlan_networks[{index}] is {quoted(network)}", ip.family_of(network)
        if family in inner:
            problems.append(f"{where}: a second one of {_SPELLED[family]}: must be one network of each family at most")
            continue
        try:
            inner[family] = ip.canonical_network(network)
        except ValueError:
            problems.append(f"{where}: must be {_NETWORK}")
    ranges = {"vxlan_id": (1, _HIGHEST_ID), "vxlan_port": (1, 65535), "vxlan_mtu": (_LOWEST_MTU, _HIGHEST_MTU)}
    for name, (low, high) in ranges.items():
        value = settings[name]
        if value is not None and not low <= value <= high:
            problems.append(f"service_proxy_{name} is {value}: must be an integer from {low} to {high}")
    return OverlaySettings(
        settings["overlay"], settings["vxlan_id"], settings["vxlan_port"], settings["vxlan_mtu"], inner
    )


def _problems(found: OverlayPlan) -> Iterator[str]:
    nodes = found.nodes
    if found.others and not found.inner_families:
        yield (
            f"service_proxy_overlay is {found.settings.mode}, but no node has service_proxy_backend_cidrs: each node that has "
            "backends must be given their networks"
        )
    seen: dict[str, str] = {}
    for node in nodes:
        for address in node.addresses.values():
            if seen.setdefault(address, node.name) != node.name:
                yield f"service_proxy_overlay_address of {seen[address]} and of {node.name} is {address}: must be different"
    for one, other in _neighbours(_spans(nodes)):
        if one.owner != other.owner and one.family == other.family and other.first <= one.last:
            yield (
                f"service_proxy_backend_cidrs of {one.owner} has {one.network}, and of {other.owner} {other.network}: must not "
                "overlap"
            )
    yield from _vxlan_problems(found) if found.settings.mode == VXLAN else _route_problems(nodes)


def _spans(nodes: Sequence[OverlayNode]) -> list[_Span]:
    found = []
    for node in nodes:
        for network in node.networks:
            address, dummy, length = network.partition("/")
            family, first = ip.family_of(address), ip.to_number(address)
            found.append(_Span(family, first, first + (1 << (ip.bits(family) - int(length))) - 1, network, node.name))
    return sorted(found)


def _neighbours(spans: Sequence[_Span]) -> Iterator[tuple[_Span, _Span]]:
    """Pairs of each span with the one before it that reaches furthest."""
    furthest: _Span | None = None
    for one in spans:
        if furthest:
            yield furthest, one
        if not furthest or (one.family, one.last) > (furthest.family, furthest.last):
            furthest = one


def _span_with(spans: Sequence[_Span], address: str) -> _Span | None:
    """Return the network that an address lies in; spans: sorted, and apart from each other."""
    family, number = ip.family_of(address), ip.to_number(address)
    at = bisect_right(spans, (family, number, 1 << ip.bits(family)))
    found = spans[at - 1] if at else None
    return found if found and found.family == family and number <= found.last else None


def _route_problems(nodes: Sequence[OverlayNode]) -> Iterator[str]:
    for node in nodes:
        for family in sorted({ip.family_of(network) for network in node.networks} - node.addresses.keys()):
            yield _no_address(node, f" of {_SPELLED[family]}, which its service_proxy_backend_cidrs need")


def _vxlan_problems(found: OverlayPlan) -> Iterator[str]:
    without = [node for node in found.nodes if not node.addresses]
    yield from (_no_address(node, "") for node in without)
    if without:
        return
    if not found.carrier:
        told = ", ".join(f"{node.name} {'/'.join(node.addresses.values())}" for node in found.nodes)
        yield f"service_proxy_overlay_address has no family that all nodes have ({told}): must be IPv4 or IPv6 on all of them"
        return
    spans = _spans(found.nodes)
    for node in found.nodes:
        around = _span_with(spans, node.addresses[found.carrier])
        if around:
            yield (
                f"service_proxy_overlay_address of {node.name} is {node.addresses[found.carrier]}, inside of {around.network} of "
                f"service_proxy_backend_cidrs of {around.owner}: packets of the tunnel would be sent into the tunnel"
            )
    yield from _inner_problems(found)


def _inner_problems(found: OverlayPlan) -> Iterator[str]:
    for family in found.inner_families:
        network = found.settings.inner.get(family)
        if network is None:
            yield f"service_proxy_vxlan_networks has no network of {_SPELLED[family]}, but backends have: must have one"
            continue
        for node in found.nodes:
            taken = [
                one
                for one in (*node.networks, *map(ip.host_network, node.addresses.values()))
                if ip.overlap(one, network)
            ]
            if taken:
                yield (
                    f"service_proxy_vxlan_networks has {network}, which holds {taken[0]} of {node.name}: must be a network that "
                    "nothing else uses"
                )
        seen: dict[str, str] = {}
        for node in found.nodes:
            address = found.inner_address(node, family)
            if address in seen:
                yield (
                    f"service_proxy_vxlan_networks has {network}: {seen[address]} and {node.name} would both have {address} of it: "
                    "must be a larger network"
                )
            seen.setdefault(address, node.name)


def _no_address(node: OverlayNode, why: str) -> str:
    return f"{node.name} has no service_proxy_overlay_address{why}, and no ansible_host that is one: must be {_ADDRESS}"


_SPELLED = {ip.IPV4: "IPv4", ip.IPV6: "IPv6"}


def _common_family(nodes: Sequence[OverlayNode]) -> str:
    """IPv4 where all nodes have it, else IPv6; empty where there is none that all have."""
    return next((family for family in ip.FAMILIES if all(family in node.addresses for node in nodes)), "")
