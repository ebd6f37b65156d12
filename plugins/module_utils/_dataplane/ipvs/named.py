# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A request for some services that the node has: of the kernel, what these have to themselves is read, and nothing else.

IPVS is asked for their virtual services alone, and what the record tells of them is found by their names in what the kernel sends
of the sets. Addresses, rules and other services are left to the next run that is asked for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..._model.request import Request
from ..._model.service import InvalidServices, Node, Service, parse_services
from ..._objects.ipset import Entries
from ..._objects.ipvs import ServiceKey
from ..interface import Host, Observation
from ..netfilter.facilities import sets
from .compile import Frontend, Frontends, compile_frontends
from .host import ipvs
from .known import KnownState, Others
from .names import SET_TYPES, set_names
from .problems import problems
from .sets import WITHOUT_COMMENT, is_one_way, recorded_frontends

Destination = tuple[str, str, int]
"""Protocol, address and port."""

_MOST_NAMED = 1000
"""Services; beyond that the whole is little more work."""
_MOST_DESTINATIONS = 100
"""Destinations that come or go."""
_MOST_USERS = 20
"""Virtual services of which it is looked up whether they are ours, for each such destination."""


def observe_named(host: Host, node: Node, request: Request) -> Observation | None:
    """Return the observation of these services alone; None where more than virtual services and entries of sets is concerned."""
    if request.state != "present" or request.exclusive or not 0 < len(request.services) <= _MOST_NAMED:
        return None
    try:
        services = parse_services(request.services, node, problems)
    except InvalidServices:
        return None  # what is wrong is told with regard to all services
    wanted = compile_frontends(services, node)
    names = {service.name for service in services}
    recorded = _recorded(host, node, names, _addresses(services, wanted, node))
    had = _with_virtual(host, {key: one for key, one in recorded.items() if one.service in names})
    if not _only_virtual_services_differ(had, wanted):
        return None
    sharing = _sharing(host, node, had, wanted)
    if sharing is None:
        return None
    others = {key: one for key, one in recorded.items() if key not in had}
    return Observation(request, KnownState(host, node, had, wanted, Others({**others, **sharing}, frozenset())))


def _addresses(services: Iterable[Service], wanted: Frontends, node: Node) -> set[str]:
    """At these other services are in the way: where the services answer, and their backends. Of its own the node has ports at all."""
    backends = {backend.address for service in services for backend in service.backends}
    own = node.addresses if not backends.isdisjoint(node.addresses) else ()
    return {*backends, *own, *(key.address for key in wanted)}


def _recorded(host: Host, node: Node, names: Iterable[str], addresses: Collection[str]) -> Frontends:
    """Return what the record tells of services with these names or at these addresses, and of some others; without virtual services."""
    facility, comments = host.facility(sets), [f"{name}: " for name in names]
    read = set_names(node.chain_prefix, set(SET_TYPES) - set(WITHOUT_COMMENT))
    found = (facility.select(name, comments, addresses) for name in sorted(read))
    entries: Mapping[str, Entries] = {one.header.name: one.entries for one in found if one}
    return recorded_frontends(entries, {}, node.chain_prefix)


def _with_virtual(host: Host, frontends: Frontends) -> Frontends:
    """Return the same with what IPVS has for each."""
    dummy, held = host.facility(ipvs).snapshot(frontends)
    return {key: one._replace(virtual=held.get(key)) for key, one in frontends.items()}


def _only_virtual_services_differ(had: Frontends, wanted: Frontends) -> bool:
    """Whether all answer where they did, so that no address is new, and no rule that all services have in common."""
    return {key: _fixed(one) for key, one in had.items()} == {key: _fixed(one) for key, one in wanted.items()}


def _fixed(frontend: Frontend) -> Sequence[object]:
    return frontend.service, frontend.kind, is_one_way(frontend)


def _sharing(host: Host, node: Node, had: Frontends, wanted: Frontends) -> Frontends | None:
    """Return, of the other services that have a destination that comes or goes, one at least for each; None where they are too many."""
    differing = _destinations(had) ^ _destinations(wanted)
    if len(differing) > _MOST_DESTINATIONS:
        return None
    found = host.facility(ipvs).users(differing)
    if found is None:
        return None
    users: dict[Destination, list[ServiceKey]] = {one: [] for one in differing}
    for destination, key in found:
        if key not in had:
            users[destination].append(key)
    chosen = {key for keys in users.values() for key in keys[:_MOST_USERS]}
    if not chosen:
        return {}
    recorded = _recorded(host, node, (), {key.address for key in chosen})
    ours = _with_virtual(host, {key: one for key, one in recorded.items() if key in chosen})
    undecided = {destination for destination, keys in users.items() if len(keys) > _MOST_USERS} - _destinations(ours)
    return None if undecided else ours


def _destinations(frontends: Frontends) -> set[Destination]:
    """Those that `sets.hairpins` are of."""
    return {
        (key.protocol, *endpoint)
        for key, one in frontends.items()
        if one.virtual
        for endpoint, destination in one.virtual.destinations.items()
        if destination.forward_method == "masquerade"
    }
