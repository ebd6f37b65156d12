# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipvs dataplane of one node: compile, observe, plan. What comes out is applied by `ipvs_change.IpvsChange`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.request import Request
from ..._model.service import Claim, InvalidServices, Node, Service, claims, conflicts
from ..._objects.ipset import HeldSet
from ..._objects.iptables import Observed
from ..._objects.iptables_text import parse_tables
from ..._objects.ipvs import HeldService, ServiceKey
from ..._plan.iptables_steps import AllTables
from ..._plan.ipvs import plan_virtual_services
from ..iptables.compile import families
from ..iptables.host import observe_families
from ..iptables.plan import Summary, observed_names
from ..netfilter.affinity import plan_sets
from ..netfilter.names import Layout
from ..netfilter.readback import entries
from ..netfilter.shared_chains import hook_jumps
from ..udp_cleanup import Reconciliation
from ..udp_flows import udp_targets
from .change import IpvsChange, IpvsKernel
from .compile import Frontends, bound_addresses, compile_frontends
from .plan import (
    claim_of,
    foreign_services,
    held_claims,
    held_frontends,
    merged,
    services_of,
    summarise,
    virtual_services,
)
from .plan_addresses import plan_addresses
from .plan_sets import plan_service_sets
from .plan_settings import SettingsPlan, plan_settings, wanted_sysctls
from .rules import wanted_chains
from .sets import set_names, wanted_sets
from .stages import stage_chains, uses_iptables

_OTHER_HOOKS = {("mangle", "OUTPUT"), ("raw", "PREROUTING"), ("raw", "OUTPUT")}


class Held(NamedTuple):
    """What the kernel holds. sets: those of our names, with entries. chains: of both dataplanes, by address family."""

    virtual: Mapping[ServiceKey, HeldService]
    sets: Mapping[str, HeldSet]
    addresses: frozenset[str]
    chains: Mapping[str, Observed]


def plan_ipvs(request: Request, node: Node, kernel: IpvsKernel) -> IpvsChange:
    """Everything up to applying. Raises InvalidServices for what is wrong in the request, and what a facility says."""
    services, names = request.parse(node)
    compiled = compile_frontends(services, node)
    held = observe_ipvs(kernel, node, services)
    ours = _ours(held, compiled, node)
    _refuse(request, node, services, names, held, ours, compiled)
    if request.state == "absent":
        wanted = {} if request.exclusive else {key: one for key, one in ours.items() if one.service not in names}
    else:
        wanted = compiled if request.exclusive else merged(compiled, ours, names)
    reconciliation = _reconcile(request, node, kernel, services, names, held, ours)
    change = _plan(wanted, ours, held, services, reconciliation, kernel, node)
    return change._replace(summary=moved(change.summary, _of_iptables(held.chains, node)))


def moved(summary: Summary, others: set[str]) -> Summary:
    """What becomes of which service, where the other dataplane had some."""
    added, removed = set(summary.added), set(summary.removed)
    stay = added | set(summary.updated)
    return Summary(sorted(added - others), sorted(stay - (added - others)), sorted(removed | (others - stay)))


def plan_leaving(request: Request, node: Node, kernel: IpvsKernel) -> IpvsChange:
    """What the ipvs dataplane has goes, once iptables has taken over. Raises what `plan_ipvs` does."""
    names = request.parse(node)[1]
    held = observe_ipvs(kernel, node)
    layout = Layout(node.chain_prefix)
    for observed in held.chains.values():
        observed.chains = {key: rules for key, rules in observed.chains.items() if layout.is_of_ipvs(key)}
    ours = _ours(held, {}, node)
    if not request.exclusive:
        problems = left_behind("ipvs", services_of(ours) - names)
        if problems:
            raise InvalidServices(problems)
    return _plan({}, ours, held, [], _reconcile(request, node, kernel, [], names, held, ours), kernel, node)


def _ours(held: Held, compiled: Frontends, node: Node) -> Frontends:
    entries_of = {name: one.entries for name, one in held.sets.items()}
    return held_frontends(held.virtual, entries_of, held.addresses, compiled, node)


def _plan(
    wanted: Frontends,
    ours: Frontends,
    held: Held,
    services: Sequence[Service],
    reconciliation: Reconciliation,
    kernel: IpvsKernel,
    node: Node,
) -> IpvsChange:
    chains = wanted_chains(wanted, node)
    staged = {family: stage_chains(observed, node, chains[family]) for family, observed in held.chains.items()}
    ours_held = {key: held.virtual[key] for key in ours if key in held.virtual}
    return IpvsChange(
        summary=summarise(wanted, ours),
        services=services,
        reconciliation=reconciliation,
        kernel=kernel,
        drain_timeout=node.drain_timeout,
        settings=_settings(wanted, kernel, node),
        addresses=plan_addresses(bound_addresses(wanted.values(), node), kernel.device.state()),
        sets=plan_service_sets(wanted_sets(wanted, node), held.sets),
        chains=staged,
        virtual=plan_virtual_services(virtual_services(wanted), ours_held),
        affinity=plan_sets({}, [one.header for one in kernel.sets.headers().values()], Layout(node.chain_prefix)),
    )


def _settings(wanted: Frontends, kernel: IpvsKernel, node: Node) -> SettingsPlan:
    values = wanted_sysctls(node, wanted)
    if not values:
        return SettingsPlan({}, None)
    held = {name: kernel.sysctls.read(name) for name in values}
    return plan_settings(node, values, held, kernel.ipvs.timeouts())


def observe_ipvs(kernel: IpvsKernel, node: Node, services: Sequence[Service] = ()) -> Held:
    """services: those for whose address families iptables has to be there."""
    state = kernel.device.state()
    found = (kernel.sets.read(name) for name in sorted(set_names(node.chain_prefix) & set(kernel.sets.headers())))
    wanted = {family for one in services for family in families(one, node)}
    return Held(
        kernel.ipvs.services(),
        {one.header.name: one for one in found if one},
        state.addresses if state else frozenset(),
        observe_families(kernel.tables, wanted, lambda tool: _observe_family(tool, Layout(node.chain_prefix))),
    )


def _observe_family(tool: AllTables, layout: Layout) -> Observed:
    hooks = {(jump.table, jump.hook) for jump in hook_jumps(layout)} | _OTHER_HOOKS
    held = parse_tables(tool.save_all())
    return Observed(
        {key: rules for key, rules in held.items() if layout.is_ours(key) or layout.is_of_ipvs(key)},
        {key: rules for key, rules in held.items() if key in hooks},
    )


def _refuse(
    request: Request,
    node: Node,
    services: Sequence[Service],
    names: set[str],
    held: Held,
    ours: Frontends,
    compiled: Frontends,
) -> None:
    """What stands in the way of a request: another tool's virtual services, and services that it does not name."""
    problems = foreign_services(compiled, ours, held.virtual)
    if not request.exclusive and request.state == "present":
        problems += left_behind("iptables", _of_iptables(held.chains, node) - names)
        new = [claim for service in services for claim in claims(service)]
        problems += conflicts(held_claims(ours, names) + new, node.addresses)
    if problems:
        raise InvalidServices(problems)


def left_behind(dataplane: str, names: set[str]) -> list[str]:
    """The mistake of switching the dataplane of some of a node's services only."""
    if not names:
        return []
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [
        (
            f"dataplane cannot change for some services only: {shown} would be left in dataplane {dataplane}: "
            "name all services of the node, or set exclusive to true"
        )
    ]


def _of_iptables(chains: Mapping[str, Observed], node: Node) -> set[str]:
    return {name for observed in chains.values() if uses_iptables(observed, node) for name in observed_names(observed)}


def _reconcile(
    request: Request,
    node: Node,
    kernel: IpvsKernel,
    services: Sequence[Service],
    names: set[str],
    held: Held,
    ours: Frontends,
) -> Reconciliation:
    """UDP flows of the services that the run names or removes, also of those that the iptables dataplane had."""

    def concerns(name: str) -> bool:
        return request.exclusive or name in names

    layout = Layout(node.chain_prefix)
    had: dict[str, list[Claim]] = {
        family: [claim_of(one) for one in ours.values() if one.key.family == family and concerns(one.service)]
        + [entry.claim for entry in entries(held.chains.get(family, Observed()), layout) if concerns(entry.service)]
        for family in ip.FAMILIES
    }
    wanted = {family: [one for one in services if family in families(one, node)] for family in ip.FAMILIES}
    targets = udp_targets(wanted, had, node)
    if targets:
        kernel.tracking.probe()
    return Reconciliation(targets, node, kernel.tracking)
