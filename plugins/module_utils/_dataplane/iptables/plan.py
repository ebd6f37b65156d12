# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changes in the iptables dataplane of a node: chains in one transaction for each address family, and the ipsets that they use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import Callable

from ..._model.request import Request
from ..._model.service import InvalidServices, Node, Service
from ..._model.service_facts import facts_of
from ..._objects.ipset import Entry
from ..._objects.iptables import Desired, Observed
from ..._plan.iptables import plan
from ..._plan.iptables_steps import FamilyPlans
from ..._plan.transaction import Step
from ..conntrack_cleanup import families_with_connections
from ..interface import Host, Observation, Summary
from ..netfilter.facilities import HeldFamilies, NoSets, Sets, sets, tables
from ..netfilter.names import Layout, ServiceRules
from ..netfilter.other_variant import Leftovers
from ..recording import nothing, with_record
from .affinity import SetPlan, plan_sets
from .cache import CachedState, cached_state
from .cache_file import Store, edits
from .compile import Compiled
from .desired import with_services, without_services
from .observe import State
from .shared_chains import guard_chains, localhost_guard
from .summary import summarise


class IptablesPlan:
    """The difference, as `interface.Plan` describes it. There are steps for the cache even where nothing differs."""

    def __init__(
        self,
        host: Host,
        summarised: Callable[[], Summary],
        families: FamilyPlans,
        set_plan: SetPlan,
        leftovers: Leftovers,
        store: Store,
        record: Callable[[], CachedState] | None,
    ) -> None:
        """record: what to leave for the next run; None where what the last one left stays."""
        self._sets: Sets = host.facility(sets)
        self._summarised, self._store, self._record = summarised, store, record
        self._families, self._set_plan, self._leftovers = families, set_plan, leftovers

    @cached_property
    def summary(self) -> Summary:
        return self._summarised()

    @property
    def changed(self) -> bool:
        return self._families.changed or self._set_plan.changed or self._leftovers.changed

    @cached_property
    def diff(self) -> dict[str, str]:
        found = self._families.diff
        parts = {"before": self._set_plan.before, "after": self._set_plan.after}
        diff = {side: found[side] + ("# ipset\n" + parts[side] if parts[side] else "") for side in found}
        return {"before": diff["before"] + self._leftovers.before, "after": diff["after"]}

    def prepare(self) -> list[Step]:
        """Make the sets before the rules that use them."""
        create = [
            Step(partial(self._sets.create, new), partial(self._sets.destroy, new.name))
            for new in self._set_plan.create
        ]
        return create + self._fill()

    def activate(self) -> list[Step]:
        """Change the rules, unless none are left. New sets are filled once more behind them, with the clients of meanwhile."""
        return [*self._recorded(self._families.steps()), *self._fill()] if self._leaves_rules else []

    def retire(self) -> list[Step]:
        """Remove the sets that no rule uses any more, and rules that the other variant of iptables still has."""
        destroyed = [
            Step(partial(self._sets.destroy, old.name), partial(self._sets.create, old))
            for old in self._set_plan.destroy
        ]
        removed = [] if self._leaves_rules else self._recorded(self._families.steps())
        return removed + destroyed + self._leftovers.steps()

    @property
    def _leaves_rules(self) -> bool:
        return any(one.result.chains for one in self._families.plans.values())

    def _fill(self) -> list[Step]:
        return [Step(partial(_fill, self._sets, self._set_plan), nothing)] if self._set_plan.fill else []

    def _recorded(self, steps: list[Step]) -> list[Step]:
        """These, and what is left for the next run, which is made while the tools of these keep other processors busy."""
        record = self._record
        if record is None:
            return [*steps, Step(self._store.touch, nothing)]

        def make() -> CachedState:
            dummy = self.summary  # for the result, as is the diff
            return record()

        return with_record(steps, make, lambda made: self._store.save(made, edits(self._families)), self._store.forget)


def plan_services(
    host: Host, node: Node, desired: Compiled, observation: Observation, leftovers: Leftovers
) -> IptablesPlan:
    """Return what makes of the observed state the one that is asked for. Raises what a facility says, and InvalidServices."""
    state: State = observation.state
    store, held = state.store, host.facility(tables)
    if state.is_unchanged:
        nothing = Summary([], [], [])
        return IptablesPlan(host, lambda: nothing, FamilyPlans({}, held), SetPlan([], []), leftovers, store, None)
    layout, request = Layout(node.chain_prefix), observation.request
    if isinstance(state.families, HeldFamilies):
        is_present = request.state == "present"
        state.families.require(
            [one for one, parts in desired.parts.items() if parts or (is_present and guard_chains(node, one))]
        )
    wanted = _desired_families(request, desired, state, node, host)
    plans = {family: plan(wanted[family], observed) for family, observed in state.families.items()}
    facility = host.facility(sets)
    others = (one.header for name, one in facility.headers().items() if name not in state.sets)
    set_plan = plan_sets(wanted, others, layout)
    if set_plan.create and isinstance(facility, NoSets):
        raise InvalidServices(["session_affinity is client_ip, which needs ipset: " + facility.why])
    return IptablesPlan(
        host,
        partial(summarise, wanted.values(), state.families.values(), plans.values(), layout),
        FamilyPlans(plans, held),
        set_plan,
        leftovers,
        store,
        partial(_record, desired.services, request, state, {family: one.result for family, one in plans.items()}, node),
    )


def _record(
    services: Iterable[Service], request: Request, state: State, held: Mapping[str, Observed], node: Node
) -> CachedState:
    """What the next run may know of this one's services, and of those that stay."""
    written = request.services if request.state == "present" else []
    facts = {service.name: facts_of([service], node) for service in services}
    return cached_state(written, facts, held, Layout(node.chain_prefix), state.kept)


def _desired_families(request: Request, desired: Compiled, state: State, node: Node, host: Host) -> dict[str, Desired]:
    """By family. Where the last service goes, what serves all stays as long as connections need it.

    The kernel tracks connections while a rule of anybody needs it to (``nf_ct_netns_put``); then translated ones break.
    """
    names = request.removed | {raw["name"] for raw in request.services}
    families = state.families
    wanted = {
        family: _desired(request, desired.parts.get(family, []), names, held, node, family, state.backends(family))
        for family, held in families.items()
    }
    guard = {localhost_guard(Layout(node.chain_prefix))}
    emptied = {
        family
        for family, held in families.items()
        if held.chains.keys() - guard and not wanted[family].chains.keys() - guard
    }
    if emptied and not (request.state == "absent" and request.exclusive):
        for family in emptied & families_with_connections(host.tracking):
            wanted[family] = _desired(request, [], names, families[family], node, family, keep_shared=True)
    return wanted


def _desired(
    request: Request,
    parts: Iterable[ServiceRules],
    names: Collection[str],
    observed: Observed,
    node: Node,
    family: str,
    backends: Iterable[str] = (),
    keep_shared: bool = False,
) -> Desired:
    if request.state == "absent":
        return Desired() if request.exclusive else without_services(names, observed, node, keep_shared, backends)
    return with_services(parts, names, observed, node, family, request.exclusive, keep_shared, backends)


def _fill(facility: Sets, plan: SetPlan) -> None:
    """What backends remember is known to their new groups too, as far as it fits, with the time that is left of it."""
    headers = {header.name: header for header in plan.create}
    for name, members in plan.fill.items():
        known: dict[str, Entry] = {}
        for held in filter(None, map(facility.read, members)):
            for element, entry in held.entries.items():
                known[element] = max(entry, known.get(element, entry), key=lambda one: one.timeout or 0)
        facility.add(headers[name], list(known.values())[: headers[name].maxelem])
