# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of the iptables dataplane, as a module reports it."""

from __future__ import annotations

from typing import Any

from ..._model.service import Node
from ..._objects.iptables import COMMANDS, Observed
from ..._objects.iptables_text import XtablesError
from ..interface import Host
from ..netfilter.facilities import sets, tables
from ..netfilter.names import Layout
from ..report import as_dicts
from .observe import read
from .readback import observed_services


def node_info(host: Host, node: Node) -> dict[str, Any]:
    """Return services, counts, and what could not be read, by tool."""
    layout = Layout(node.chain_prefix)
    observed: dict[str, Observed] = {}
    unreadable = {}
    for family, tool in host.facility(tables).items():
        try:
            observed[family] = read(tool, layout)
        except XtablesError as error:
            unreadable[COMMANDS[family]] = str(error)
    services = observed_services(observed.values(), layout)
    chains = [rules for one in observed.values() for rules in one.chains.values()]
    counts = {
        "services": len(services),
        "sets": sum(map(layout.is_affinity_set, host.facility(sets).headers())),
        "destinations": sum(len(service.backends) for service in services),
        "chains": len(chains),
        "rules": sum(map(len, chains)),
    }
    return {"services": as_dicts(services), "counts": counts, "unreadable": unreadable}
