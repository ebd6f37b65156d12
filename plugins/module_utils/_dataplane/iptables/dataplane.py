# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables dataplane, as `interface.Dataplane` describes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..._kernel.ipset import IpsetError
from ..._kernel.nft import NftError
from ..._model import addresses as ip
from ..._model.conflicts import BackendOf, Claim
from ..._model.request import Request
from ..._model.service import Node, Service
from ..._objects.boot import BootState
from ..._objects.ipset import create_line
from ..._objects.iptables import COMMANDS, Observed
from ..._objects.iptables_text import XtablesError
from ..._plan.iptables import plan
from ..interface import Host, Observation
from ..netfilter.names import Layout
from ..netfilter.other_variant import other_variant_warnings
from ..netfilter.walk import trace
from ..packet import Packet, Trace
from ..problems import ipvs_keys
from .affinity import plan_sets
from .compile import Compiled, compile_parts, whole_state
from .desired import edit_services
from .info import node_info
from .observe import observe
from .plan import IptablesPlan, plan_services
from .presence import IptablesPresence
from .readback import claims_of


class Iptables(IptablesPresence):
    """Services as chains of iptables, in kube-proxy's layout."""

    errors: tuple[type[Exception], ...] = (IpsetError, NftError, XtablesError)

    def problems(self, services: Sequence[Service], dummy: Node) -> list[str]:
        return ipvs_keys(services, self.name)

    def compile(self, services: Sequence[Service], node: Node) -> Compiled:
        return compile_parts(services, node)

    def bound_addresses(self, dummy: Sequence[Service], _node: Node) -> Collection[str]:
        return ()

    def observe(self, host: Host, node: Node, request: Request) -> Observation:
        return observe(host, node, request)

    def claims(
        self,
        observed: Observation,
        node: Node,
        at: Collection[str | None] | None = None,
        of: Collection[str] | None = None,
    ) -> dict[str, list[Claim]]:
        layout = Layout(node.chain_prefix)
        return {family: claims_of(held, layout, at, of) for family, held in observed.state.families.items()}

    def backends(self, observed: Observation, dummy: Node, at: Collection[tuple[str, str, int]]) -> Iterable[BackendOf]:
        return observed.state.backends_at(at)

    def warnings(self, host: Host, dummy: Observation, node: Node, families: Collection[str]) -> list[str]:
        return other_variant_warnings(host, node.chain_prefix, families)

    def plan(self, host: Host, node: Node, desired: Compiled, observed: Observation) -> IptablesPlan:
        return plan_services(host, node, desired, observed, self.leftovers(host, node))

    def review(self, desired: Compiled, node: Node, families: Sequence[str]) -> str:
        states = {family: state for family, state in whole_state(desired, node).items() if family in families}
        rules = {COMMANDS[family]: plan(state, Observed()).after for family, state in states.items()}
        if len(families) == 1:
            return "".join(rules.values())
        parts = {**rules, "ipset": plan_sets(states, (), Layout(node.chain_prefix)).after}
        return "".join(f"# {tool}\n{text}" for tool, text in parts.items() if text)

    def render(self, desired: Compiled, node: Node) -> BootState:
        states = whole_state(desired, node)
        created = plan_sets(states, (), Layout(node.chain_prefix)).create
        return BootState(rules=states, sets="".join(create_line(header) + "\n" for header in created))

    def edited(self, before: BootState, desired: Compiled, names: Collection[str], node: Node) -> BootState | None:
        if any(service.session_affinity != "none" for service in desired.services):
            return None  # sets of clients are kept apart from rules
        return BootState(rules=edit_services(before.rules, desired.parts, names, node))

    def trace(self, desired: Compiled, node: Node, packet: Packet) -> Trace:
        return trace(whole_state(desired, node)[ip.family_of(packet.destination)], packet)

    def info(self, host: Host, node: Node) -> dict[str, Any]:
        return node_info(host, node)
