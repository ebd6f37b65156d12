# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run gives to `boot` for each of its parts: services, the overlay, and the chains of the roles bridge and backend. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from .._dataplane import registry
from .._model.service import Node, parse_services
from .._objects.boot import BootState
from .._objects.iptables import Desired, Jump
from .._objects.nftables import Table
from .._objects.overlay import Item
from .._resource.chain.request import ChainRequest
from .boot import Part
from .boot_generations import json_text
from .given import Given, without_drained

_ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"


def services_part(
    given: Given,
    drained: Sequence[str],
    listed: Sequence[str],
    node: Node,
    program: bytes,
    made: Callable[[], BootState | None] = lambda: None,
    checks: bool = False,
) -> Part:
    """Return what a node proxies behind a run. drained: backends; listed: those of them that playbooks have drained.

    program: of the code that makes rules of services, so that other code makes them anew. made: the state, where the run has it.
    checks: whether a service has health checks. What these have found is in no state: after a boot all backends are healthy.
    """
    dataplane = given.settings["dataplane"]

    def state() -> BootState:
        found = made()
        if found is None:
            chosen = registry.load(dataplane)
            services = parse_services(without_drained(given.services, drained), node, chosen.problems)
            found = chosen.render(chosen.compile(services, node), node)
        return found._replace(sysctls={_ROUTE_LOCALNET: 1} if node.localhost_node_ports else {})

    asked: dict[str, Any] = {
        "settings": dict(given.settings),
        "services": given.payload._asdict(),
        "drained": list(listed),
    }
    asked.update({"checks": True} if checks else {})
    return Part(state, made_of(given, drained, node, program), asked)


def made_of(given: Given, drained: Sequence[str], node: Node, program: bytes) -> str:
    """Return the digest of all that the state of services depends on. Arguments: as of `services_part`."""
    code = hashlib.sha256(program).hexdigest()
    return _digest([given.payload.digest, given.settings["dataplane"], list(drained), list(node), code])


def overlay_part(items: Sequence[Item]) -> Part | None:
    """Return the part of an overlay, None where there is none."""
    if not items:
        return None
    return Part(lambda: BootState(overlay=items), _digest([[type(one).__name__, *one] for one in items]), {})


def chains_part(requests: Iterable[ChainRequest]) -> Part | None:
    """Return the part of these chains, None where none is wanted. Rules and jumps are in the spelling of ``iptables-save``."""
    states: dict[str, Desired] = {}
    for one in requests:
        for family in one.families if one.present else ():
            state = states.setdefault(family, Desired())
            state.chains[one.table, one.chain] = list(one.rules or ())
            state.jumps += [
                Jump(
                    *(one.table, jump.hook, jump.rule(one.chain), jump.position),
                    overtakes=jump.position == "first",
                    behind=one.behind,
                )
                for jump in one.jumps or ()
            ]
    if not states:
        return None
    shown: list[Any] = [[family, sorted(one.chains.items()), one.jumps] for family, one in states.items()]
    return Part(lambda: BootState(rules=states), _digest(repr(shown)), {})


def tables_part(tables: Mapping[str, Table]) -> Part | None:
    """Return the part of what a role has in our tables of nftables, None where that is nothing. tables: by address family."""
    if not tables:
        return None
    return Part(lambda: BootState(nftables=tables), _digest(repr(sorted(tables.items()))), {})


def _digest(value: Any) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()
