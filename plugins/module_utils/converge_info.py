# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of its services, as a module reports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Dict

from .converge import observe
from .dataplane.rules import Layout
from .families import Tables
from .kernel.xtables import COMMANDS, XtablesError
from .plan.readback import ObservedService, observed_services
from .ruleset import Observed


def iptables_info(tables: Mapping[str, Tables], set_names: Iterable[str], prefix: str) -> Dict[str, Any]:
    """Services, counts, and what could not be read, by tool. set_names: those of all ipsets."""
    layout = Layout(prefix)
    observed: Dict[str, Observed] = {}
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
        **_counts(observed, layout),
    }
    return {"services": list(map(_service, services)), "counts": counts, "unreadable": unreadable}


def _counts(observed: Mapping[str, Observed], layout: Layout) -> Dict[str, int]:
    chains = [(name, rules) for one in observed.values() for (_table, name), rules in one.chains.items()]
    return {
        "chains": len(chains),
        "rules": sum(len(rules) for _name, rules in chains),
        "destinations": sum(name.startswith(layout.shared("SEP-")) for name, _rules in chains),
    }


def _service(service: ObservedService) -> Dict[str, Any]:
    return {
        **service._asdict(),
        "backends": [backend._asdict() for backend in service.backends],
        "refusals": [refusal._asdict() for refusal in service.refusals],
    }
