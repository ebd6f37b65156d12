# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nftables dataplane, as `interface.Dataplane` describes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..._model import addresses as ip
from ..._model.conflicts import BackendOf, Claim
from ..._model.request import Request
from ..._model.service import Node, Service
from ..._objects.boot import BootState
from ..._objects.nftables import Table
from ..._objects.nftables_changes import NftError
from ..._plan.nftables import plan_tables
from ..interface import Host, Observation
from ..packet import Packet, Trace
from ..problems import ipvs_keys
from .closed_forward import closed_forward_warnings
from .compile import compile_services
from .host import TABLES, maps_of, own_tables
from .plan import Compiled, NftablesPlan, State, observe, plan_services
from .presence import NftablesPresence
from .readback import claims_of, node_info, observed_services
from .tables import guards_localhost, make_table
from .trace import trace


class Nftables(NftablesPresence):
    """Services as elements of maps, in tables of our own."""

    errors = (*NftablesPresence.errors, NftError)

    def problems(self, services: Sequence[Service], dummy: Node) -> list[str]:
        return ipvs_keys(services, self.name)

    def compile(self, services: Sequence[Service], node: Node) -> Compiled:
        return Compiled(compile_services(services, node), services)

    def bound_addresses(self, dummy: Sequence[Service], _node: Node) -> Collection[str]:
        return ()

    def observe(self, host: Host, node: Node, request: Request) -> Observation:
        return observe(host, node, request)

    def claims(
        self,
        observed: Observation,
        dummy: Node,
        at: Collection[str | None] | None = None,
        of: Collection[str] | None = None,
    ) -> dict[str, list[Claim]]:
        seen: State = observed.state
        held = {family: maps_of(seen.held.get(one)) for family, one in TABLES.items()}
        if at is not None and seen.others:
            held = dict(seen.others())
        return {family: claims_of(found, family, at, of) for family, found in held.items()}

    def backends(self, observed: Observation, dummy: Node, at: Collection[tuple[str, str, int]]) -> Iterable[BackendOf]:
        seen: State = observed.state
        if seen.narrowed:
            return []  # else it would not have been narrowed
        return [
            BackendOf(one.name, one.protocol, backend.address, backend.port)
            for one in observed_services(seen.held)
            for backend in one.backends
            if (one.protocol, backend.address, backend.port) in at
        ]

    def warnings(self, host: Host, dummy: Observation, _node: Node, families: Collection[str]) -> list[str]:
        return closed_forward_warnings(host, families)

    def plan(self, host: Host, node: Node, desired: Compiled, observed: Observation) -> NftablesPlan:
        return plan_services(host, node, desired, observed)

    def review(self, desired: Compiled, node: Node, families: Sequence[str]) -> str:
        wanted = {TABLES[family]: one for family, one in _tables(desired, node).items() if family in families}
        text = plan_tables(wanted, {}).after()
        return f"# nft\n{text}" if text and len(families) > 1 else text

    def render(self, desired: Compiled, node: Node) -> BootState:
        return BootState(nftables=_tables(desired, node))

    def edited(self, dummy: BootState, _desired: Compiled, _names: Collection[str], _node: Node) -> BootState | None:
        return None

    def trace(self, desired: Compiled, node: Node, packet: Packet) -> Trace:
        family = ip.family_of(packet.destination)
        return trace(make_table(desired.elements[family], node, family), packet)

    def info(self, host: Host, dummy: Node) -> dict[str, Any]:
        return node_info(host.facility(own_tables))


def _tables(desired: Compiled, node: Node) -> dict[str, Table]:
    return {
        family: make_table(found, node, family)
        for family, found in desired.elements.items()
        if found or guards_localhost(node, family)
    }
