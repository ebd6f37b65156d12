# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run sees and changes in the nftables dataplane of a node: one transaction, whatever is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Callable, NamedTuple

from ..._model.payload import texts_of
from ..._model.request import Request
from ..._model.service import Node, Service, parse_names
from ..._objects.nftables import Table
from ..._plan.nftables import plan_tables
from ..._plan.transaction import Step
from ..conntrack_cleanup import families_with_connections
from ..interface import Host, Observation, Summary, Tracking
from ..recording import with_record
from . import ownership
from .cache import Record, digest_of_request, digest_of_settings, store
from .compile import compile_services
from .counts import count
from .host import TABLES, Facility, Held, maps_of, own_tables
from .maps import FRONTS, Maps, headers
from .narrow import Narrowed, narrowed
from .numbers import first_numbers
from .tables import guards_localhost, make_table


class Compiled(NamedTuple):
    """What services are compiled to."""

    elements: Mapping[str, Maps]  # by address family
    services: Sequence[Service]


class State(NamedTuple):
    """What a run has seen."""

    held: Held
    """Our tables; of a narrowed request what may differ of them (`narrow`)."""
    generation: int
    settings: str
    asked: str
    """Digests of the settings of the node, and of the request."""
    is_disturbed: bool = False
    """Whether somebody else has changed the ruleset since the last run, but not our tables."""
    narrowed: Narrowed | None = None
    others: Callable[[], Mapping[str, Maps]] | None = None
    """Reads at which addresses and node ports services answer, where some that stay may be in the way of a narrowed request."""
    offloads: bool = False
    """Whether flow tables are those of the last run, but for devices that have gone since."""


class NftablesPlan:
    """The difference, as `interface.Plan` describes it. There is a step for the next run's sake even where nothing differs."""

    def __init__(self, host: Host, wanted: Held, seen: State, left: Callable[[], Record | None]) -> None:
        """left: what is left for the next run, but for the generation; None for nothing."""
        self._facility, self._store = host.facility(own_tables), host.facility(store)
        self._wanted, self._held, self._seen, self._left = wanted, seen.held, seen, left
        self._plan = plan_tables(wanted, seen.held)
        self._transactions = 0

    @cached_property
    def summary(self) -> Summary:
        wanted, held = (
            {one: maps_of(states.get(one)) for one in TABLES.values()} for states in (self._wanted, self._held)
        )
        after, before = ({name for one in found.values() for name in ownership.names(one)} for found in (wanted, held))
        touched: set[str] = set()
        if self.changed:
            for family, one in TABLES.items():
                touched |= ownership.changed_owners(wanted[one], held[one], family)
        return Summary(sorted(after - before), sorted(after & before & touched), sorted(before - after))

    @property
    def changed(self) -> bool:
        return self._plan.changed

    @cached_property
    def diff(self) -> dict[str, str]:
        if not self.changed:
            return {"before": "", "after": ""}
        parts = {"before": self._plan.before(), "after": self._plan.after()}
        return {side: f"# nft\n{text}" if text else "" for side, text in parts.items()}

    def prepare(self) -> list[Step]:
        """Nothing: what would stand beside another dataplane is made in the same transaction as what leads to it."""
        return []

    def activate(self) -> list[Step]:
        return self._steps() if self._has_services else []

    def retire(self) -> list[Step]:
        return [] if self._has_services else self._steps()

    @property
    def _has_services(self) -> bool:
        return bool(self._seen.narrowed) or any(ownership.names(maps_of(table)) for table in self._wanted.values())

    def _steps(self) -> list[Step]:
        """The change, and what is left for the next run, which is made while the kernel works; for the result so are diff and summary."""
        if not self.changed:
            return [] if self._is_recorded else [Step(lambda: self._record(self._left()), self._store.forget)]

        def make() -> Record | None:
            dummy = self.diff, self.summary
            return self._left()

        return with_record([Step(self._apply, self._undo)], make, self._record, self._store.forget)

    @property
    def _is_recorded(self) -> bool:
        """Whether the last run has left all that this one could leave."""
        found = self._seen.narrowed
        return found is not None and found.is_recorded and not self._seen.is_disturbed

    def _apply(self) -> None:
        self._transactions = self._facility.apply(self._plan)

    def _undo(self) -> None:
        self._facility.apply(self._plan.undo())

    def _record(self, left: Record | None) -> None:
        """Leave what spares the next run a look, unless somebody else has changed anything since this one's."""
        if left is None or self._facility.generation() != self._seen.generation + self._transactions:
            self._store.forget()
            return
        now = self._seen.generation + self._transactions
        if self._transactions or not self._seen.narrowed:
            digest, generation = self._facility.digest() if self._seen.is_disturbed else ("", now)
            left = left._replace(tables=digest if generation == now else "")
        self._store.save(left._replace(generation=now))


def observe(host: Host, node: Node, request: Request) -> Observation:
    """Read the tables; or, if nobody has changed them since the last run, find what is asked for beyond what it was asked for."""
    facility = host.facility(own_tables)
    settings, asked = digest_of_settings(node), digest_of_request(request) if _is_whole(request) else ""
    record = host.facility(store).load()
    is_disturbed = offloads = False
    if record and record.settings == settings:
        generation = facility.generation()
        is_disturbed = record.generation != generation
        offloads = _offloads(facility, node, record)
        is_known = not is_disturbed or (record.tables and (record.tables, generation) == facility.digest())
        if is_known and offloads:
            found = narrowed(record, request, node, asked)
            if found and facility.fits(plan_tables(found.wanted, found.held)):
                others = partial(_answering, facility) if found.has_new_claims else None
                seen = State(dict(found.held), generation, settings, asked, is_disturbed, found, others)
                return Observation(found.request, seen, found.facts)
    return Observation(request, State(*facility.read(), settings, asked, is_disturbed, offloads=offloads))


def _offloads(facility: Facility, node: Node, record: Record) -> bool:
    """Whether flow tables have all of their devices that there are: one that goes leaves them, which is no new generation."""
    offload = set(node.flow_offload)
    found = [facility.devices(TABLES[family]) for family in record.counts.families()] if offload else []
    return all(offloading == offload & there for offloading, there in found)


def _answering(facility: Facility) -> dict[str, Maps]:
    """Read at which addresses and node ports services answer, by address family."""
    names = [front.services for front in FRONTS]
    return {
        family: dict(facility.elements(one, {name: headers(family)[name] for name in names}))
        for family, one in TABLES.items()
    }


def _is_whole(request: Request) -> bool:
    """Whether a request says all that a node shall have."""
    return request.state == "present" and request.exclusive and bool(request.services)


def plan_services(host: Host, node: Node, desired: Compiled, observation: Observation) -> NftablesPlan:
    """Return what makes of the observed state the one that is asked for."""
    seen: State = observation.state
    if seen.narrowed:
        left = seen.narrowed.left
        return NftablesPlan(host, dict(seen.narrowed.wanted), seen, lambda: left)
    services = _wanted_services(observation.request, desired, node, seen.held)
    kept = _kept_empty(observation.request, services, seen.held, host.tracking)
    wanted = {
        TABLES[family]: make_table(services[family], node, family)
        for family in TABLES
        if services[family] or family in kept or _keeps_guard(observation.request, node, family, seen.held)
    }
    if seen.offloads:
        held = seen.held
        wanted = {one: _with_devices(table, held[one]) if one in held else table for one, table in wanted.items()}
    return NftablesPlan(host, wanted, seen, lambda: _record(observation.request, desired, services, wanted, node, seen))


def _with_devices(table: Table, held: Table) -> Table:
    """The table without devices that its flow tables have lost, which is no reason to make these anew: the kernel would refuse."""
    found = {
        name: one._replace(devices=held.flowtables.get(name, one).devices) for name, one in table.flowtables.items()
    }
    return table._replace(flowtables=found)


def _record(
    request: Request, desired: Compiled, services: Mapping[str, Maps], wanted: Held, node: Node, seen: State
) -> Record | None:
    """What is left for the next run; None where the node has services that the request does not name, or has none."""
    names = {name for one in services.values() for name in ownership.names(one)}
    numbers = first_numbers(desired.services)
    if not names or numbers is None or names != {one.name for one in desired.services}:
        return None
    counts = count(desired.services, services, node)
    if {TABLES[family] for family in counts.families()} != set(wanted):
        return None
    asked = seen.asked or digest_of_request(request._replace(exclusive=True))
    return Record(seen.settings, asked, 0, "", sorted(numbers), counts, texts_of(request.services))


def _wanted_services(request: Request, desired: Compiled, node: Node, held: Held) -> dict[str, Maps]:
    """The elements of services by family: what the request does not name is kept as it is, unless it is exclusive."""
    new = desired.elements
    if request.exclusive:
        return {family: new.get(family, {}) for family in TABLES}
    names = request.removed.union(parse_names(request.services))
    kept = {family: ownership.without(maps_of(held.get(one)), names, family) for family, one in TABLES.items()}
    taken, drawn = ({number for one in by.values() for number in ownership.numbers(one)} for by in (kept, new))
    if taken & drawn:
        new = compile_services(desired.services, node, taken)
    return {family: _merged(kept[family], new.get(family, {})) for family in TABLES}


def _merged(kept: Maps, new: Mapping[str, Mapping[bytes, object]]) -> Maps:
    merged = dict(kept)
    for name, elements in new.items():
        merged[name] = {**kept.get(name, {}), **elements}  # type: ignore[dict-item]
    return merged


def _keeps_guard(request: Request, node: Node, family: str, held: Held) -> bool:
    stays = request.state == "present" or (not request.exclusive and TABLES[family] in held)
    return stays and guards_localhost(node, family)


def _kept_empty(request: Request, services: Mapping[str, Maps], held: Held, tracking: Tracking) -> Collection[str]:
    """The families whose chains stay without any service, as long as connections need them.

    The kernel tracks connections while a rule of anybody needs it to (``nf_ct_netns_put``); then translated ones break.
    """
    if request.state == "absent" and request.exclusive:
        return ()
    emptied = {family for family, one in TABLES.items() if one in held and not services[family]}
    return emptied & families_with_connections(tracking) if emptied else ()
