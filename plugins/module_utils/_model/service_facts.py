# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services reduced to what the checks of a node ask of them: little enough for a cache to keep it of ten thousand. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import addresses as ip
from .families import service_families
from .fields import quoted
from .own_ports import own_ports
from .service import Backend, Node, Service


class ServiceFacts(NamedTuple):
    """What the checks of a node need to know of its services."""

    families: frozenset[str] = frozenset()
    """Address families in which a service answers."""
    local_backend_families: frozenset[str] = frozenset()
    """Address families in which a backend is an address of this node."""
    has_node_port: bool = False
    addresses: frozenset[str] = frozenset()
    """Every address at which a service answers, but for node ports."""
    unmasqueraded_backends: frozenset[str] = frozenset()
    """Addresses of backends to which local sources come under their own address."""
    warnings: tuple[str, ...] = ()
    """What is allowed in services, but hardly meant: one line each."""
    own_ports: tuple[str, ...] = ()
    """Ports of the node's own addresses that a service takes (`OwnPort.to_text`)."""


def merged_facts(facts: Sequence[ServiceFacts]) -> ServiceFacts:
    """Return the facts of the services of all together."""
    return ServiceFacts(
        frozenset().union(*(one.families for one in facts)),
        frozenset().union(*(one.local_backend_families for one in facts)),
        any(one.has_node_port for one in facts),
        frozenset().union(*(one.addresses for one in facts)),
        frozenset().union(*(one.unmasqueraded_backends for one in facts)),
        tuple(text for one in facts for text in one.warnings),
        tuple(text for one in facts for text in one.own_ports),
    )


Counted = dict[str, "Counter[str]"]
"""The values of facts, by field, and how often each is there: with this one of many services can be taken out again."""


def facts_of(services: Sequence[Service], node: Node) -> ServiceFacts:
    """Return the facts of these services on a node."""
    return _made_of(*_values(services, node))


def count_facts(services: Sequence[Service], node: Node) -> Counted:
    """Return the facts of these services on a node, counted: those of two lists add up to those of both together."""
    return dict(zip(ServiceFacts._fields, map(Counter, _values(services, node))))


def facts_in(counted: Counted) -> ServiceFacts:
    """Return what has been counted at least once."""
    return _made_of(*(counted[field] for field in ServiceFacts._fields))


def _values(services: Sequence[Service], node: Node) -> tuple[Iterable[str], ...]:
    """The values of each field of the facts, as often as they are there; of `has_node_port` the ports."""
    backends = (backend for service in services for backend in service.backends)
    keeping = (service for service in services if _keeps_sources(service, node))
    return (
        (family for service in services for family in service_families(service, node)),
        (one.family for one in backends if one.address in node.addresses),
        (str(one.node_port) for one in services if one.node_port is not None),
        (address for service in services for address in service.addresses),
        (one.address for service in keeping for one in _taking(service)),
        _warnings(services),
        (one.to_text() for one in own_ports(services, node)),
    )


def _made_of(
    families: Iterable[str],
    local_backend_families: Iterable[str],
    node_ports: Iterable[str],
    addresses: Iterable[str],
    unmasqueraded_backends: Iterable[str],
    warnings: Iterable[str],
    ports: Iterable[str],
) -> ServiceFacts:
    return ServiceFacts(
        frozenset(families),
        frozenset(local_backend_families),
        any(node_ports),
        frozenset(addresses),
        frozenset(unmasqueraded_backends),
        tuple(dict.fromkeys(warnings)),
        tuple(dict.fromkeys(ports)),
    )


def _warnings(services: Iterable[Service]) -> list[str]:
    found = []
    for service in services:
        if service.node_port is None:
            reached = set(map(ip.family_of, service.addresses))
            found += [
                f"service {quoted(service.name)}: it has no address in the family of its backend {one.address}, which is not used"
                for one in service.backends
                if one.family not in reached
            ]
        if service.source_ranges and not service.load_balancer_ips:
            found.append(
                f"service {quoted(service.name)}: source_ranges guard load_balancer_ips alone, and it has none"
            )
    return found


def _keeps_sources(service: Service, node: Node) -> bool:
    """Whether local sources reach it under their own address by one of its ways in."""
    external = service.external_ips or service.load_balancer_ips or service.node_port is not None
    return bool((service.vip and not node.masquerade_all) or (external and service.external_traffic_policy == "local"))


def _taking(service: Service) -> list[Backend]:
    return [backend for backend in service.backends if backend.weight and (backend.ready or backend.serving)]
