# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a node has in IPVS, as the record and the kernel's virtual services tell them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..._model import addresses as ip
from ..._objects.conntrack import Endpoint
from ..._objects.ipvs import ServiceKey
from ..report import Refusal
from .compile import EXTERNAL_IP, LOAD_BALANCER, NODE_PORT, VIP, Frontend, Frontends

Connections = Mapping[ServiceKey, Mapping[Endpoint, tuple[int, int]]]
"""Of each destination of each virtual service: active and inactive connections."""


class ObservedDestination(NamedTuple):
    """A backend in all virtual services of its service: its greatest weight, its connections together."""

    address: str
    port: int
    weight: int
    forward_method: str
    active_connections: int
    inactive_connections: int


class ObservedVirtualService(NamedTuple):
    """A service in both address families."""

    name: str
    protocol: str
    port: int | None
    vip: list[str]
    external_ips: list[str]
    load_balancer_ips: list[str]
    node_port: int | None
    scheduler: str | None
    backends: list[ObservedDestination]
    refusals: list[Refusal]


def observed_virtual_services(held: Frontends, connections: Connections) -> list[ObservedVirtualService]:
    """By name."""
    by_name: dict[str, list[Frontend]] = {}
    for one in held.values():
        by_name.setdefault(one.service, []).append(one)
    return [_service(name, found, connections) for name, found in sorted(by_name.items())]


def _service(name: str, found: Sequence[Frontend], connections: Connections) -> ObservedVirtualService:
    refusals = {
        Refusal(None if one.kind == NODE_PORT else one.key.address, one.key.port, "reject", "no backends")
        for one in found
        if one.rejects
    }
    return ObservedVirtualService(
        name=name,
        protocol=found[0].key.protocol,
        port=min((one.key.port for one in found if one.kind != NODE_PORT), default=None),
        vip=_addresses(found, VIP),
        external_ips=_addresses(found, EXTERNAL_IP),
        load_balancer_ips=_addresses(found, LOAD_BALANCER),
        node_port=min((one.key.port for one in found if one.kind == NODE_PORT), default=None),
        scheduler=min((one.virtual.service.scheduler for one in found if one.virtual), default=None),
        backends=_backends(found, connections),
        refusals=sorted(refusals, key=lambda refusal: (refusal.address or "", *refusal[1:])),
    )


def _addresses(found: Iterable[Frontend], kind: str) -> list[str]:
    return sorted({one.key.address for one in found if one.kind == kind}, key=ip.sort_key)


def _backends(found: Iterable[Frontend], connections: Connections) -> list[ObservedDestination]:
    result: dict[Endpoint, ObservedDestination] = {}
    for frontend in found:
        for endpoint, one in frontend.virtual.destinations.items() if frontend.virtual else ():
            active, inactive = connections.get(frontend.key, {}).get(endpoint, (0, 0))
            have = result.get(endpoint)
            result[endpoint] = ObservedDestination(
                *endpoint,
                max(one.weight, have.weight if have else 0),
                one.forward_method,
                active + (have.active_connections if have else 0),
                inactive + (have.inactive_connections if have else 0),
            )
    return sorted(result.values(), key=lambda one: (ip.sort_key(one.address), one.port))
