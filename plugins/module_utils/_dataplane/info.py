# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of its services, as a module reports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._kernel.iptables import XtablesError
from .._kernel.ipvs import NoIpvsError
from .._model.service import Node
from .._objects.iptables import COMMANDS, Observed
from .._plan.iptables_steps import Tables
from .iptables.host import observe
from .ipvs.host import observe_ipvs
from .ipvs.plan import virtual_services
from .ipvs.readback import ObservedVirtualService, observed_virtual_services
from .ipvs.sets import recorded_frontends
from .netfilter.names import Layout
from .netfilter.readback import ObservedService, observed_services
from .run import Facilities, NoIpvs, has_remains, ipvs_kernel

_IPVS_COUNTS = ("services", "virtual_services", "destinations", "sets", "chains", "rules")


def iptables_info(tables: Mapping[str, Tables], set_names: Iterable[str], prefix: str) -> dict[str, Any]:
    """Services, counts, and what could not be read, by tool. set_names: those of all ipsets."""
    layout = Layout(prefix)
    observed: dict[str, Observed] = {}
    unreadable = {}
    for family, tool in tables.items():
        try:
            observed[family] = observe(tool, layout)
        except XtablesError as error:
            unreadable[COMMANDS[family]] = str(error)
    services = observed_services(observed.values(), layout)
    counts = {
        "services": len(services),
        "sets": sum(map(layout.is_affinity_set, set_names)),
        "destinations": sum(len(service.backends) for service in services),
        **_counts(observed),
    }
    return {"services": list(map(_service, services)), "counts": counts, "unreadable": unreadable}


def ipvs_info(has: Facilities, node: Node) -> dict[str, Any]:
    """The same of the ipvs dataplane. IPVS is only asked where it is, or was, in use. Raises what a facility says."""
    if not has_remains(node, has):
        return {"services": [], "counts": dict.fromkeys(_IPVS_COUNTS, 0), "unreadable": {}}
    try:
        kernel, unreadable = ipvs_kernel(has, has.ipvs()), {}
    except NoIpvsError as error:
        kernel, unreadable = ipvs_kernel(has, NoIpvs()), {"ipvs": str(error)}
    held = observe_ipvs(kernel, node)
    ours = recorded_frontends({name: one.entries for name, one in held.sets.items()}, held.virtual, node.chain_prefix)
    found = virtual_services(ours)
    services = observed_virtual_services(ours, kernel.ipvs.connections(found))
    chains = [rules for one in held.chains.values() for rules in one.chains.values()]
    destinations = sum(len(one.destinations) for one in found.values())
    counts = (len(services), len(found), destinations, len(held.sets), len(chains), sum(map(len, chains)))
    return {
        "services": list(map(_service, services)),
        "counts": dict(zip(_IPVS_COUNTS, counts)),
        "unreadable": unreadable,
    }


def _counts(observed: Mapping[str, Observed]) -> dict[str, int]:
    chains = [rules for one in observed.values() for rules in one.chains.values()]
    return {"chains": len(chains), "rules": sum(map(len, chains))}


def _service(service: ObservedService | ObservedVirtualService) -> dict[str, Any]:
    return {
        **service._asdict(),
        "backends": [backend._asdict() for backend in service.backends],
        "refusals": [refusal._asdict() for refusal in service.refusals],
    }
