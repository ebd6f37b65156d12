# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipvs dataplane of one node: compile, observe, plan. What comes out is applied by `ipvs_change.IpvsChange`."""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Set

from . import addresses as ip
from .converge import observe_families
from .converge_conntrack import Reconciliation
from .dataplane.frontend_sets import set_names, wanted_sets
from .dataplane.frontends import Frontends, bound_addresses, compile_frontends
from .dataplane.iptables import families
from .dataplane.ipvs_chains import wanted_chains
from .dataplane.rules import Layout
from .dataplane.shared_chains import hook_jumps
from .families import AllTables
from .ipset_types import HeldSet
from .ipvs_change import IpvsChange, IpvsKernel
from .ipvs_types import HeldService, ServiceKey
from .kernel.xtables import parse_save
from .kernel.xtables_text import by_table
from .plan.affinity import plan_sets
from .plan.bound_addresses import plan_addresses
from .plan.conntrack import udp_targets
from .plan.frontends import (
    claim_of,
    foreign_services,
    held_claims,
    held_frontends,
    merged,
    services_of,
    summarise,
    virtual_services,
)
from .plan.ipvs_settings import SettingsPlan, plan_settings, wanted_sysctls
from .plan.readback import entries
from .plan.service_sets import plan_service_sets
from .plan.services import Summary, observed_names
from .plan.staged_chains import stage_chains, uses_iptables
from .plan.virtual_services import plan_virtual_services
from .ruleset import ChainKey, Observed, Rules
from .service import Claim, InvalidServices, Node, Service, claims, conflicts
from .services_request import Request

_OTHER_HOOKS = {("mangle", "OUTPUT"), ("raw", "PREROUTING"), ("raw", "OUTPUT")}


class Held(NamedTuple):
    """What the kernel holds. sets: those of our names, with entries. chains: of both dataplanes, by address family."""

    virtual: Mapping[ServiceKey, HeldService]
    sets: Mapping[str, HeldSet]
    addresses: FrozenSet[str]
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


def moved(summary: Summary, others: Set[str]) -> Summary:
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
    held: Dict[ChainKey, Rules] = {
        (table, chain): rules
        for table, text in by_table(tool.save_all()).items()
        for chain, rules in parse_save(text).items()
    }
    return Observed(
        {key: rules for key, rules in held.items() if layout.is_ours(key) or layout.is_of_ipvs(key)},
        {key: rules for key, rules in held.items() if key in hooks},
    )


def _refuse(
    request: Request,
    node: Node,
    services: Sequence[Service],
    names: Set[str],
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


def left_behind(dataplane: str, names: Set[str]) -> List[str]:
    """The mistake of switching the dataplane of some of a node's services only."""
    if not names:
        return []
    shown = ", ".join(sorted(names)[:5]) + (" and %d more" % (len(names) - 5) if len(names) > 5 else "")
    return [
        "dataplane cannot change for some services only: %s would be left in dataplane %s: "
        "name all services of the node, or set exclusive to true" % (shown, dataplane)
    ]


def _of_iptables(chains: Mapping[str, Observed], node: Node) -> Set[str]:
    return {name for observed in chains.values() if uses_iptables(observed, node) for name in observed_names(observed)}


def _reconcile(
    request: Request,
    node: Node,
    kernel: IpvsKernel,
    services: Sequence[Service],
    names: Set[str],
    held: Held,
    ours: Frontends,
) -> Reconciliation:
    """UDP flows of the services that the run names or removes, also of those that the iptables dataplane had."""

    def concerns(name: str) -> bool:
        return request.exclusive or name in names

    layout = Layout(node.chain_prefix)
    had: Dict[str, List[Claim]] = {
        family: [claim_of(one) for one in ours.values() if one.key.family == family and concerns(one.service)]
        + [entry.claim for entry in entries(held.chains.get(family, Observed()), layout) if concerns(entry.service)]
        for family in ip.FAMILIES
    }
    wanted = {family: [one for one in services if family in families(one, node)] for family in ip.FAMILIES}
    targets = udp_targets(wanted, had, node)
    if targets:
        kernel.tracking.probe()
    return Reconciliation(targets, node, kernel.tracking)
