# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables dataplane of one node: compile, observe, plan; and, unless it is only to be foretold, apply."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import (
    Callable,
    NamedTuple,
    Protocol,
    TypeVar,
)

from ..._kernel.background import start_in_background
from ..._kernel.iptables import NoXtablesError, parse_save
from ..._kernel.state_file import Edits, Left
from ..._model import addresses as ip
from ..._model.request import Request
from ..._model.service import InvalidServices, Node, Service, claims, conflicts, parse_services
from ..._objects.ipset import Entry, HeldSet, SetHeader
from ..._objects.iptables import ChainKey, Desired, Observed, Rules
from ..._plan.iptables import plan
from ..._plan.iptables_steps import FamilyPlans, Tables
from ..._plan.transaction import Step, run
from ..netfilter.affinity import SetPlan, plan_sets
from ..netfilter.names import Layout
from ..netfilter.shared_chains import hook_jumps
from ..udp_cleanup import Reconciliation, Tracking, families_with_connections, plan_reconciliation
from .cache import Memory
from .cache_scope import TABLES, Records, Scope, edits, partial_scope, settings_digest, whole_scope
from .compile import compile_service, families
from .plan import Summary, observed_claims, summarise, with_services, without_services

AnyTables = TypeVar("AnyTables", bound=Tables)


class Sets(Protocol):
    """What is needed of the kernel's ipsets (`kernel.ipset.Ipset`)."""

    def headers(self) -> dict[str, HeldSet]:
        """Every set by its name, without entries."""

    def create(self, header: SetHeader) -> None:
        """Make an empty set."""

    def destroy(self, name: str) -> None:
        """Remove a set that nothing uses."""

    def read(self, name: str) -> HeldSet | None:
        """A set with its entries, None where there is none of this name."""

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None:
        """Add entries, or write all that is kept beside an element anew where it is there already."""


class NoSets:
    """The ipsets of a kernel that has none. why: one line."""

    def __init__(self, why: str) -> None:
        self.why = why

    def headers(self) -> dict[str, HeldSet]:
        return {}

    def create(self, header: SetHeader) -> None:
        raise InvalidServices([f"{header.name} cannot be made: {self.why}"])

    def destroy(self, name: str) -> None:
        """There is none to destroy."""

    def read(self, dummy: str) -> HeldSet | None:
        return None

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None:
        """There is none to add to."""


class Kernel(NamedTuple):
    """The facilities of a node. records: what runs leave for the next one, where the node has such."""

    tables: Mapping[str, Tables]
    sets: Sets
    tracking: Tracking
    records: Records | None = None


class Change(NamedTuple):
    """What will be done to a node, and what it means, which is summarised when it is asked for first.

    services: those that the run is about; of those that stay as they are some of each kind. record: what to leave for the next
    run; None where what was left stays.
    """

    summarised: Callable[[], Summary]
    families: FamilyPlans
    set_plan: SetPlan
    kernel: Kernel
    reconciliation: Reconciliation
    services: Sequence[Service]
    record: Callable[[], Memory] | None

    @property
    def summary(self) -> Summary:
        return self.summarised()

    @property
    def changed(self) -> bool:
        return self.families.changed or self.set_plan.changed

    @property
    def diff(self) -> dict[str, str]:
        chains = self.families.diff
        sets = {"before": self.set_plan.before, "after": self.set_plan.after}
        return {part: chains[part] + ("# ipset\n" + sets[part] if sets[part] else "") for part in chains}

    def apply(self) -> None:
        """All or nothing. Raises what the failing facility said."""
        run(self.steps())

    def steps(self) -> list[Step]:
        """In their order: sets before the rules that use them."""
        sets = self.kernel.sets
        created = [Step(partial(sets.create, new), partial(sets.destroy, new.name)) for new in self.set_plan.create]
        gone = [Step(partial(sets.destroy, old.name), partial(sets.create, old)) for old in self.set_plan.destroy]
        filled = [Step(partial(_fill, sets, self.set_plan), _nothing)] if self.set_plan.fill else []
        # Once more behind the rules: clients have come meanwhile.
        return created + filled + self._recorded(self.families.steps()) + filled + gone

    def _recorded(self, steps: list[Step]) -> list[Step]:
        """These, and what is left for the next run, which is made while the tools of these keep other processors busy."""
        records, record = self.kernel.records, self.record
        if records is None or record is None:
            return steps

        def make() -> tuple[Left | None, Edits]:
            self.summarised()  # for the result, as is the diff by which edits are counted
            return records.prepare(record()), edits(self.families)

        begun: list[Callable[[], tuple[Left | None, Edits]]] = []
        begin = Step(lambda: begun.append(start_in_background(make)), records.end)
        return [begin, *steps, Step(lambda: records.keep(*begun[0]()), records.forget)]


def _fill(sets: Sets, plan: SetPlan) -> None:
    """What backends remember is known to their new groups too, as far as it fits, with the time that is left of it."""
    headers = {header.name: header for header in plan.create}
    for name, members in plan.fill.items():
        known: dict[str, Entry] = {}
        for held in filter(None, map(sets.read, members)):
            for element, entry in held.entries.items():
                known[element] = max(entry, known.get(element, entry), key=lambda one: one.timeout or 0)
        sets.add(headers[name], list(known.values())[: headers[name].maxelem])


def _nothing() -> None:
    """The set goes with its clients."""


def plan_services(request: Request, node: Node, kernel: Kernel) -> Change:
    """Everything up to applying. Raises InvalidServices for what is wrong in the request, and what a facility says.

    Where the rules are those that a run has left, only what differs from what it was given is looked at.
    """
    settings = settings_digest(node)
    records = kernel.records
    memory = records.recall() if records else None
    if records and memory and memory.settings == settings:
        try:
            scope = partial_scope(request, memory, node, kernel.tables, records)
            if scope:
                return _plan(request, scope, node, kernel, settings)
        except InvalidServices:
            pass  # what is wrong is told with regard to all services
    return _plan(request, whole_scope(request.state, request.services, request.exclusive), node, kernel, settings)


def nothing_to_do(node: Node, dataplane: str, kernel: Kernel) -> Change | None:
    """The change that changes nothing, where the last run was asked for the same and left the rules as they are.

    None where this is not certain, or UDP flows have to be judged, which takes the services themselves.
    """
    left = kernel.records.repeated() if kernel.records else None
    if left is None or left.has_udp or left.settings != settings_digest(node):
        return None
    return Change(
        lambda: Summary([], [], []),
        FamilyPlans({}, kernel.tables),
        SetPlan([], []),
        kernel,
        Reconciliation({}, node, kernel.tracking),
        parse_services(left.samples, dataplane, node),
        record=None,
    )


def _plan(request: Request, scope: Scope, node: Node, kernel: Kernel, settings: str) -> Change:
    asked = request._replace(services=scope.services, exclusive=scope.exclusive)
    services, names = asked.parse(node)
    names |= scope.gone
    wanted = {family: _of_family(services, node, family) for family in ip.FAMILIES}
    layout = Layout(node.chain_prefix)
    observed = scope.observed or observe_families(
        kernel.tables, {family for family in wanted if wanted[family]}, lambda tool: observe(tool, layout)
    )
    if not scope.exclusive:
        _refuse_conflicts(services, names, observed.values(), node)
    desired = _desired_families(asked, wanted, names, observed, node, kernel.tracking, scope.backends)
    plans = {family: plan(desired[family], held) for family, held in observed.items()}
    others = (held.header for name, held in kernel.sets.headers().items() if name not in scope.sets)
    set_plan = plan_sets(desired, others, layout)
    if set_plan.create and isinstance(kernel.sets, NoSets):
        raise InvalidServices(["session_affinity is client_ip, which needs ipset: " + kernel.sets.why])
    unchanged = parse_services(scope.unchanged, request.dataplane, node) if scope.unchanged else []
    tracked = {family: [*of_run, *_of_family(unchanged, node, family)] for family, of_run in wanted.items()}
    reconciliation = plan_reconciliation(
        tracked, observed, lambda name: scope.exclusive or name in names, node, kernel.tracking
    )
    return Change(
        lru_cache(maxsize=None)(partial(summarise, desired.values(), observed.values(), plans.values(), layout)),
        FamilyPlans(plans, kernel.tables),
        set_plan,
        kernel,
        reconciliation,
        [*services, *(parse_services(scope.similar, request.dataplane, node) if scope.similar else [])],
        lambda: scope.record(settings, {family: one.result for family, one in plans.items()}, layout),
    )


def _of_family(services: Iterable[Service], node: Node, family: str) -> list[Service]:
    return [one for one in services if family in families(one, node)]


def observe_families(
    tables: Mapping[str, AnyTables], wanted: Collection[str], read: Callable[[AnyTables], Observed]
) -> dict[str, Observed]:
    """What each family holds; one that this host lacks holds nothing, and is in the way only when it is wanted.

    Raises XtablesError for one that cannot be read.
    """
    found = {}
    for family, tool in tables.items():
        try:
            found[family] = read(tool)
        except NoXtablesError:
            if family in wanted:
                raise
    return found


def observe(tool: Tables, layout: Layout) -> Observed:
    """Our chains, and the chains of others in which our jumps stand."""
    hooks = {(jump.table, jump.hook) for jump in hook_jumps(layout)}
    held: dict[ChainKey, Rules] = {
        (table, chain): rules for table in TABLES for chain, rules in parse_save(tool.save(table)).items()
    }
    return Observed(
        {key: rules for key, rules in held.items() if layout.is_ours(key)},
        {key: rules for key, rules in held.items() if key in hooks},
    )


def _desired_families(
    request: Request,
    wanted: Mapping[str, Sequence[Service]],
    names: set[str],
    observed: Mapping[str, Observed],
    node: Node,
    tracking: Tracking,
    backends: Collection[str],
) -> dict[str, Desired]:
    """By family. Where the last service goes, what serves all stays as long as connections need it.

    The kernel tracks connections while a rule of anybody needs it to (``nf_ct_netns_put``); then translated ones break.
    """
    desired = {
        family: _desired(request, wanted[family], names, held, node, family, backends=_of(backends, family))
        for family, held in observed.items()
    }
    emptied = {family for family, held in observed.items() if held.chains and not desired[family].chains}
    if emptied:
        for family in emptied & families_with_connections(tracking):
            desired[family] = _desired(request, [], names, observed[family], node, family, keep_shared=True)
    return desired


def _desired(
    request: Request,
    services: Iterable[Service],
    names: set[str],
    observed: Observed,
    node: Node,
    family: str,
    keep_shared: bool = False,
    backends: Collection[str] = (),
) -> Desired:
    if request.state == "absent":
        return Desired() if request.exclusive else without_services(names, observed, node, keep_shared, backends)
    parts = [compile_service(service, node, family) for service in services]
    return with_services(parts, names, observed, node, family, request.exclusive, keep_shared, backends)


def _of(addresses: Iterable[str], family: str) -> list[str]:
    return [address for address in addresses if ip.family_of(address) == family]


def _refuse_conflicts(services: Iterable[Service], names: set[str], observed: Iterable[Observed], node: Node) -> None:
    """A service that stays as it is has what it has taken."""
    new = [claim for service in services for claim in claims(service)]
    addresses = {claim.address for claim in new} | {None, *node.addresses}
    taken = {
        claim._replace(key=""): claim for one in observed for claim in observed_claims(one, names, addresses, node)
    }
    problems = conflicts(list(taken.values()) + new, node.addresses)
    if problems:
        raise InvalidServices(problems)
