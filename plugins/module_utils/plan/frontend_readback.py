# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a node has in IPVS, as the record and the kernel's virtual services tell them. Pure."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import addresses as ip
from ..dataplane.frontends import EXTERNAL_IP, LOAD_BALANCER, NODE_PORT, VIP, Frontend, Frontends
from ..flow import Endpoint
from ..ipvs_types import ServiceKey
from .readback import Refusal

Connections = Mapping[ServiceKey, Mapping[Endpoint, Tuple[int, int]]]
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
    port: Optional[int]
    vip: List[str]
    external_ips: List[str]
    load_balancer_ips: List[str]
    node_port: Optional[int]
    scheduler: Optional[str]
    backends: List[ObservedDestination]
    refusals: List[Refusal]


def observed_virtual_services(held: Frontends, connections: Connections) -> List[ObservedVirtualService]:
    """By name."""
    by_name: Dict[str, List[Frontend]] = {}
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


def _addresses(found: Iterable[Frontend], kind: str) -> List[str]:
    return sorted({one.key.address for one in found if one.kind == kind}, key=ip.sort_key)


def _backends(found: Iterable[Frontend], connections: Connections) -> List[ObservedDestination]:
    result: Dict[Endpoint, ObservedDestination] = {}
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
