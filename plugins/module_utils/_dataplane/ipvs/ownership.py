# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which virtual services are ours, and which the node shall have, given those that a task names. Pure.

IPVS itself does not know whose a virtual service is. Ours are those of the record (`sets`); where it is lost, those
at the addresses of our device, and those that are wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ..._model import addresses as ip
from ..._model.conflicts import Claim
from ..._model.fields import quoted
from ..._model.service import Node
from ..._objects.ipset import Entries
from ..._objects.ipvs import HeldService, ServiceKey
from ..interface import Summary
from .compile import NODE_PORT, Frontend, Frontends
from .sets import recorded_frontends, unrecorded

_KEYS = {"vip": "vip", "external ip": "external_ips", "load balancer": "load_balancer_ips", NODE_PORT: "node_port"}


def held_frontends(
    virtual: Mapping[ServiceKey, HeldService],
    sets: Mapping[str, Entries],
    bound: Collection[str],
    wanted: Frontends,
    node: Node,
) -> Frontends:
    """What is ours of what the kernel holds. bound: the addresses of our device."""
    recorded = recorded_frontends(sets, virtual, node.chain_prefix)
    lost = bool(bound) and not recorded
    found = dict(recorded)
    for key, held in virtual.items():
        if key not in found and ((key.address in bound and (lost or key in wanted)) or (lost and key in wanted)):
            found[key] = unrecorded(key, held, node)._replace(service=wanted[key].service if key in wanted else "")
    return found


def foreign_services(wanted: Frontends, held: Frontends, virtual: Mapping[ServiceKey, HeldService]) -> list[str]:
    """One line for each wanted address at which another tool has a virtual service."""
    text = (
        "service %s: %s %s/%s is taken already by a virtual service of IPVS that this collection did not make "
        "(scheduler %s, %d destinations): remove it, or choose another address or port"
    )
    return [
        text
        % (
            quoted(one.service),
            _KEYS[one.kind],
            ip.endpoint(key.address, key.port),
            key.protocol,
            virtual[key].service.scheduler,
            len(virtual[key].destinations),
        )
        for key, one in wanted.items()
        if key in virtual and key not in held
    ]


def claim_of(frontend: Frontend) -> Claim:
    """What a frontend takes for its service."""
    key = frontend.key
    address = None if frontend.kind == NODE_PORT else key.address
    return Claim(frontend.service, _KEYS[frontend.kind], key.protocol, address, key.port)


def merged(wanted: Frontends, held: Frontends, names: Collection[str]) -> Frontends:
    """The named services as wanted, the others as they are; what nobody owns goes where it is in the way."""
    kept = {key: one for key, one in held.items() if one.service not in names and key not in wanted}
    return {**kept, **wanted}


def summarise(wanted: Frontends, held: Frontends) -> Summary:
    """What becomes of which service."""
    had, has = _by_service(held.values()), _by_service(wanted.values())
    return Summary(
        sorted(set(has) - set(had)),
        sorted(name for name in set(has) & set(had) if has[name] != had[name]),
        sorted(set(had) - set(has)),
    )


def _by_service(frontends: Iterable[Frontend]) -> dict[str, dict[ServiceKey, Frontend]]:
    result: dict[str, dict[ServiceKey, Frontend]] = {}
    for one in frontends:
        if one.service:
            result.setdefault(one.service, {})[one.key] = one
    return result


def virtual_services(frontends: Frontends) -> dict[ServiceKey, HeldService]:
    """What is to be in IPVS."""
    return {key: one.virtual for key, one in frontends.items() if one.virtual}
