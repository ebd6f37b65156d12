# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables dataplane of one node: compile, observe, plan; and, unless it is only to be foretold, apply."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Protocol, Sequence, Set, Tuple

from . import addresses as ip
from .dataplane.iptables import compile_service, families
from .dataplane.rules import Layout
from .dataplane.shared_chains import hook_jumps
from .kernel.xtables import XtablesError, parse_save
from .plan.chains import ChainKey, ChainPlan, Desired, Observed, Rules, plan
from .plan.services import Summary, observed_claims, summarise, with_services, without_services
from .service import InvalidServices, Node, Service, claims, conflicts, parse_names, parse_services, quoted
from .transaction import Step, run

TABLES = ("filter", "nat")
_TOOL = {ip.IPV4: "iptables", ip.IPV6: "ip6tables"}


class Tables(Protocol):
    """What is needed of an address family's iptables (`kernel.xtables.Xtables`)."""

    def save(self, table: str) -> str:
        """The text of ``iptables-save``."""

    def restore(self, text: str, test: bool = False) -> None:
        """Apply a restore text as one transaction, without flushing."""


class Request(NamedTuple):
    """What a task asks for."""

    state: str
    services: Sequence[Any]
    exclusive: bool
    dataplane: str


class Change(NamedTuple):
    """What will be done to a node, and what it means."""

    summary: Summary
    plans: Mapping[str, ChainPlan]
    tables: Mapping[str, Tables]
    warnings: Sequence[str]

    @property
    def changed(self) -> bool:
        return any(one.changed for one in self.plans.values())

    @property
    def diff(self) -> Dict[str, str]:
        return {part: self._diff_text(part) for part in ("before", "after")}

    def _diff_text(self, part: str) -> str:
        texts = {family: getattr(one, part) for family, one in self.plans.items()}
        return "".join("# %s\n%s" % (_TOOL[family], text) for family, text in texts.items() if text)

    def apply(self) -> None:
        """Both families or none. Raises what the failing tool said."""
        run(
            [
                Step(partial(self.tables[family].restore, one.restore), partial(self.tables[family].restore, one.undo))
                for family, one in self.plans.items()
                if one.changed
            ]
        )


def plan_services(request: Request, node: Node, tables: Mapping[str, Tables]) -> Change:
    """Everything up to applying. Raises InvalidServices for what is wrong in the request."""
    services, names = _parse(request, node)
    wanted = {family: [one for one in services if family in families(one, node)] for family in ip.FAMILIES}
    layout = Layout(node.chain_prefix)
    observed = _observe_families(tables, wanted, layout)
    if not request.exclusive:
        _refuse_conflicts(services, names, observed.values(), node)
    desired = {
        family: _desired(request, wanted[family], names, held, node, family) for family, held in observed.items()
    }
    plans = {family: plan(desired[family], held) for family, held in observed.items()}
    summary = summarise(desired.values(), observed.values(), plans.values())
    return Change(summary, plans, tables, _warnings(services))


def _observe_families(
    tables: Mapping[str, Tables], wanted: Mapping[str, Sequence[Service]], layout: Layout
) -> Dict[str, Observed]:
    """What each family holds; a family that this host lacks holds nothing, and is in the way only when it is wanted."""
    found = {}
    for family, tool in tables.items():
        try:
            found[family] = observe(tool, layout)
        except XtablesError:
            if wanted[family]:
                raise
    return found


def observe(tool: Tables, layout: Layout) -> Observed:
    """Our chains, and the chains of others in which our jumps stand."""
    hooks = {(jump.table, jump.hook) for jump in hook_jumps(layout)}
    held: Dict[ChainKey, Rules] = {
        (table, chain): rules for table in TABLES for chain, rules in parse_save(tool.save(table)).items()
    }
    return Observed(
        {key: rules for key, rules in held.items() if layout.is_ours(key)},
        {key: rules for key, rules in held.items() if key in hooks},
    )


def _parse(request: Request, node: Node) -> Tuple[List[Service], Set[str]]:
    if request.state == "absent":
        return [], set(parse_names(request.services))
    services = parse_services(request.services, request.dataplane, node)
    unsupported = [
        'service %s: session_affinity is "client_ip": not supported yet: must be none' % quoted(service.name)
        for service in services
        if service.session_affinity != "none"
    ]
    if unsupported:
        raise InvalidServices(unsupported)
    return services, {service.name for service in services}


def _desired(
    request: Request, services: Iterable[Service], names: Set[str], observed: Observed, node: Node, family: str
) -> Desired:
    if request.state == "absent":
        return Desired() if request.exclusive else without_services(names, observed, node)
    parts = [compile_service(service, node, family) for service in services]
    return with_services(parts, names, observed, node, family, request.exclusive)


def _refuse_conflicts(services: Iterable[Service], names: Set[str], observed: Iterable[Observed], node: Node) -> None:
    """A service that stays as it is has what it has taken."""
    taken = {claim._replace(key=""): claim for one in observed for claim in observed_claims(one, names, node)}
    new = [claim for service in services for claim in claims(service)]
    problems = conflicts(list(taken.values()) + new, node.addresses)
    if problems:
        raise InvalidServices(problems)


def _warnings(services: Iterable[Service]) -> List[str]:
    """What is allowed, but hardly meant."""
    found = []
    for service in services:
        reached = {ip.family_of(address) for dummy, address in service.addresses()}
        unused = [b.address for b in service.backends if service.node_port is None and b.family not in reached]
        if unused:
            text = "service %s: it has no address in the family of its backend %s, which is not used"
            found += [text % (quoted(service.name), address) for address in unused]
        if service.source_ranges and not service.load_balancer_ips:
            text = "service %s: source_ranges guard load_balancer_ips alone, and it has none"
            found.append(text % quoted(service.name))
    return found
