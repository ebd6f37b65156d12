# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of the ipvs dataplane, as a module reports it."""

from __future__ import annotations

from typing import Any

from ..._kernel.ipvs import NoIpvsError
from ..._model.service import Node
from ..interface import Host
from ..report import as_dicts
from .host import State, ipvs
from .ownership import virtual_services
from .presence import IpvsPresence
from .readback import observed_virtual_services
from .sets import recorded_frontends

_COUNTS = ("services", "virtual_services", "destinations", "sets", "chains", "rules")


def node_info(host: Host, node: Node) -> dict[str, Any]:
    """Return services, counts, and what could not be read. IPVS is only asked where this dataplane is, or was, in use."""
    if not IpvsPresence().in_use(host, node):
        return {"services": [], "counts": dict.fromkeys(_COUNTS, 0), "unreadable": {}}
    unreadable = {}
    try:
        host.facility(ipvs)
    except NoIpvsError as error:
        unreadable["ipvs"] = str(error)
    state = State(host, node, needs_ipvs=False)
    entries = {name: held.entries for name, held in state.sets.items()}
    ours = recorded_frontends(entries, state.virtual, node.chain_prefix)
    found = virtual_services(ours)
    services = observed_virtual_services(ours, state.ipvs.connections(found))
    chains = [rules for held in state.families.values() for rules in held.chains.values()]
    destinations = sum(len(one.destinations) for one in found.values())
    counts = (len(services), len(found), destinations, len(state.sets), len(chains), sum(map(len, chains)))
    return {"services": as_dicts(services), "counts": dict(zip(_COUNTS, counts)), "unreadable": unreadable}
