# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which addresses of services a node announces, and which of them it can serve now. Pure.

A node serves an address while it leads to usable backends: those of the node itself where a policy is local.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .._dataplane.backends import choose
from .._model import addresses as ip
from .._model.messages import quoted
from .._model.service import Node, Service
from .settings import VRRP, Announcement, spelled


class Address(NamedTuple):
    """An address to be announced."""

    address: str
    is_local: bool
    """Whether a service at it is served by this node's own backends alone, so that not every node may have it."""
    is_served: bool
    """Whether this node has usable backends for what is at it."""

    @property
    def family(self) -> str:
        return ip.family_of(self.address)


class _Way(NamedTuple):
    """A service at an address."""

    service: Service
    is_local: bool


def find_addresses(services: Sequence[Service], node: Node, vips: bool) -> list[Address]:
    """Return all addresses that are to be announced, in numeric order."""
    ways: dict[str, list[_Way]] = {}
    for service in services:
        for address, is_local in _addresses(service, vips):
            ways.setdefault(address, []).append(_Way(service, is_local))
    return [
        Address(one, any(way.is_local for way in ways[one]), _is_served(one, ways[one], node))
        for one in sorted(ways, key=ip.sort_key)
    ]


def _addresses(service: Service, vips: bool) -> Iterator[tuple[str, bool]]:
    """Each address of a service, and whether a policy confines it to local backends."""
    is_local = service.external_traffic_policy == "local"
    yield from ((one, is_local) for one in (*service.external_ips, *service.load_balancer_ips))
    if vips:
        yield from ((one, service.internal_traffic_policy == "local") for one in service.vip)


def _is_served(address: str, ways: Sequence[_Way], node: Node) -> bool:
    """Whether each service at an address that has usable backends has some that this node may use, and one service has any."""
    family = ip.family_of(address)
    pools = [(way, choose(way.service, node, family)) for way in ways]
    alive = [(way, found) for way, found in pools if found.cluster]
    return bool(alive) and all(found.local or not way.is_local for way, found in alive)


def service_problems(found: Sequence[Address], services: Sequence[Service], plan: Announcement) -> list[str]:
    """Return what makes it impossible to announce these addresses, one line each."""
    problems = []
    owners = {one: node.name for node in plan.nodes for one in node.addresses.values()}
    for service in services:
        for address, dummy in _addresses(service, plan.vips):
            if address in owners:
                problems.append(
                    f"service {quoted(service.name)}: {address} is to be announced, but is the own address of {owners[address]}: must "
                    "be an address that no node has itself"
                )
    families = [family for family in ip.FAMILIES if any(one.family == family for one in found)]
    lacking = _without_peers if plan.method == VRRP else _without_neighbors
    return problems + [line for family in families for line in lacking(family, found, plan)]


def _without_peers(family: str, found: Sequence[Address], plan: Announcement) -> list[str]:
    return [
        f"{node.name} has no service_proxy_announce_address of {spelled(family)}, and no ansible_host that is one: must be the address "
        f"by which the other nodes reach it, since {_first(family, found)} is to be announced"
        for node in plan.nodes
        if family not in node.addresses
    ]


def _without_neighbors(family: str, found: Sequence[Address], plan: Announcement) -> list[str]:
    if any(one.family == family for one in plan.neighbors):
        return []
    version = spelled(family)
    return [
        f"service_proxy_bgp_neighbors has no {version} address, but {_first(family, found)} is to be announced: must have one of {version}"
    ]


def _first(family: str, found: Sequence[Address]) -> str:
    return next(one.address for one in found if one.family == family)


def service_warnings(found: Sequence[Address], plan: Announcement) -> list[str]:
    """Return what is allowed, but hardly meant: one line each."""
    keys = "external_ips, load_balancer_ips or vip" if plan.vips else "external_ips or load_balancer_ips"
    warnings = []
    if not found:
        also = "" if plan.vips else " (service_proxy_announce_vips is false)"
        warnings.append(
            f"service_proxy_announce is {plan.method}, but no service has {keys}{also}: nothing is announced"
        )
    if plan.method == VRRP and len(plan.nodes) == 1:
        warnings.append(
            f"service_proxy_announce is vrrp on {plan.own.name} alone: no other node takes its addresses over"
        )
    return warnings
