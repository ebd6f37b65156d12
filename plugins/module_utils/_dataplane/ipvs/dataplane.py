# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipvs dataplane, as `interface.Dataplane` describes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..._kernel.dummy import DeviceError
from ..._kernel.ipset import IpsetError
from ..._kernel.ipvs import IpvsError, NoIpvsError
from ..._kernel.nft import NftError
from ..._kernel.sysctl import SysctlError
from ..._model import addresses as ip
from ..._model.conflicts import BackendOf, Claim
from ..._model.request import Request
from ..._model.service import InvalidServices, Node, Service
from ..._objects.boot import BootState
from ..._objects.iptables import COMMANDS, Observed
from ..._objects.iptables_text import XtablesError
from ..._objects.ipvs import Timeouts
from ..._plan.iptables import plan
from ..._plan.ipvs import plan_virtual_services
from ..interface import Host, Observation
from ..netfilter.facilities import NoSets, sets
from ..netfilter.other_variant import leftovers, other_variant_warnings
from ..packet import Packet, Trace
from .compile import Compiled, bound_addresses, compile_frontends
from .info import node_info
from .names import chain_keys
from .observe import observe
from .ownership import claim_of, virtual_services
from .plan import IpvsPlan, plan_frontends
from .plan_addresses import plan_addresses
from .plan_sets import plan_service_sets
from .presence import IpvsPresence
from .problems import problems
from .rules import wanted_chains
from .sets import wanted_sets
from .trace import trace_ipvs


class Ipvs(IpvsPresence):
    """Services as virtual services of IPVS, with rules whose number does not depend on theirs."""

    errors: tuple[type[Exception], ...] = (
        DeviceError,
        IpsetError,
        IpvsError,
        NftError,
        NoIpvsError,
        SysctlError,
        XtablesError,
    )

    def problems(self, services: Sequence[Service], node: Node) -> list[str]:
        return problems(services, node)

    def compile(self, services: Sequence[Service], node: Node) -> Compiled:
        return Compiled(compile_frontends(services, node), services)

    def bound_addresses(self, services: Sequence[Service], node: Node) -> Collection[str]:
        return bound_addresses(compile_frontends(services, node).values(), node)

    def observe(self, host: Host, node: Node, request: Request) -> Observation:
        facility = host.facility(sets)
        if request.state == "present" and isinstance(facility, NoSets):
            raise InvalidServices(["dataplane is ipvs, which needs ipset: " + facility.why])
        return observe(host, node, request)

    def claims(
        self,
        observed: Observation,
        dummy: Node,
        at: Collection[str | None] | None = None,
        of: Collection[str] | None = None,
    ) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {family: [] for family in ip.FAMILIES}
        for frontend in observed.state.answering().values():
            claim = claim_of(frontend)
            if claim.service and (at is None or claim.address in at) and (of is None or claim.service in of):
                found[frontend.key.family].append(claim)
        return found

    def backends(self, observed: Observation, dummy: Node, at: Collection[tuple[str, str, int]]) -> Iterable[BackendOf]:
        return {
            BackendOf(one.service, key.protocol, address, port)
            for key, one in observed.state.answering().items()
            if one.virtual and one.service
            for address, port in one.virtual.destinations
            if (key.protocol, address, port) in at
        }

    def warnings(self, host: Host, dummy: Observation, node: Node, families: Collection[str]) -> list[str]:
        return other_variant_warnings(host, node.chain_prefix, families)

    def plan(self, host: Host, node: Node, desired: Compiled, observed: Observation) -> IpvsPlan:
        own = chain_keys(node.chain_prefix)
        return plan_frontends(host, node, desired, observed, leftovers(host, node.chain_prefix, own.__contains__))

    def review(self, desired: Compiled, node: Node, families: Sequence[str]) -> str:
        wanted = {key: one for key, one in desired.frontends.items() if key.family in families}
        parts = {"ipset": plan_service_sets(wanted_sets(wanted, node), {}).after}
        for family, state in wanted_chains(wanted, node).items():
            parts[COMMANDS[family]] = plan(state, Observed()).after
        parts["ipvsadm"] = plan_virtual_services(virtual_services(wanted), {}).after
        addresses = plan_addresses(bound_addresses(wanted.values(), node), None).after()
        parts["ip -batch"] = "".join(line + "\n" for line in addresses)
        return "".join(f"# {tool}\n{text}" for tool, text in parts.items() if text)

    def render(self, desired: Compiled, node: Node) -> BootState:
        given = (node.tcp_timeout, node.tcpfin_timeout, node.udp_timeout)
        return BootState(
            rules={family: state for family, state in wanted_chains(desired.frontends, node).items() if state.chains},
            sets=plan_service_sets(wanted_sets(desired.frontends, node), {}).after,
            ipvs=plan_virtual_services(virtual_services(desired.frontends), {}).after.splitlines(),
            ipvs_timeouts=Timeouts(*(seconds or 0 for seconds in given)),
            addresses=sorted(bound_addresses(desired.frontends.values(), node), key=ip.sort_key),
        )

    def edited(self, dummy: BootState, _desired: Compiled, _names: Collection[str], _node: Node) -> BootState | None:
        return None

    def trace(self, desired: Compiled, node: Node, packet: Packet) -> Trace:
        state = wanted_chains(desired.frontends, node)[ip.family_of(packet.destination)]
        return trace_ipvs(state, desired.frontends, wanted_sets(desired.frontends, node), packet)

    def info(self, host: Host, node: Node) -> dict[str, Any]:
        return node_info(host, node)
