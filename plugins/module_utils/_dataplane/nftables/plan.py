# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run sees and changes in the nftables dataplane of a node: one transaction, whatever is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Callable, NamedTuple

from ..._model.request import Request
from ..._model.service import Node, Service, parse_names
from ..._model.service_facts import ServiceFacts, facts_of
from ..._plan.nftables import plan_tables
from ..._plan.transaction import Step
from ..conntrack_cleanup import families_with_connections
from ..interface import Host, Observation, Summary, Tracking
from . import ownership
from .cache import Record, digest_of_request, store
from .compile import compile_services
from .host import TABLES, Held, maps_of, own_tables
from .maps import Maps
from .tables import guards_localhost, make_table


class Compiled(NamedTuple):
    """What services are compiled to."""

    elements: Mapping[str, Maps]  # by address family
    services: Sequence[Service]


class State(NamedTuple):
    """What a run has seen."""

    held: Held
    generation: int
    asked: str  # the digest of a request after which the node has nothing else; empty for other requests


UNCHANGED = State({}, 0, "")
"""Nothing was read, because all is as asked for."""


class NftablesPlan:
    """The difference, as `interface.Plan` describes it. There is a step for the next run's sake even where nothing differs."""

    def __init__(self, host: Host, wanted: Held, seen: State, facts: Callable[[], ServiceFacts]) -> None:
        """facts: of the services of the request, which a record is to keep."""
        self._facility, self._store = host.facility(own_tables), host.facility(store)
        self._wanted, self._held, self._seen, self._facts = wanted, seen.held, seen, facts
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
        return any(ownership.names(maps_of(table)) for table in self._wanted.values())

    def _steps(self) -> list[Step]:
        changed = [Step(self._apply, self._undo)] if self.changed else []
        return changed + ([Step(self._record, self._store.forget)] if self._seen.asked else [])

    def _apply(self) -> None:
        self._transactions = self._facility.apply(self._plan)

    def _undo(self) -> None:
        self._facility.apply(self._plan.undo())

    def _record(self) -> None:
        """Leave what spares the next run a look, unless somebody else has changed anything since this one's."""
        if self._facility.generation() == self._seen.generation + self._transactions:
            facts, names = self._facts(), (maps_of(table) for table in self._wanted.values())
            has_udp = any(ownership.has_protocol(one, "udp") for one in names)
            self._store.save(Record(self._seen.asked, self._facility.generation(), has_udp, facts))
        else:
            self._store.forget()


def observe(host: Host, node: Node, request: Request) -> Observation:
    """Read the tables, unless the last run was asked for the same and nobody has changed anything of nftables since."""
    facility = host.facility(own_tables)
    # Where nothing is wanted any more, what connections still needed is looked at until it can be removed.
    is_whole = request.state == "present" and request.exclusive and bool(request.services)
    asked = digest_of_request(request, node) if is_whole else ""
    record = host.facility(store).load() if asked else None
    if record and (record.asked, record.generation) == (asked, facility.generation()):
        judged = [one for one in request.services if one.get("protocol") == "udp"] if record.has_udp else []
        return Observation(Request("present", [], False, request.dataplane, unchanged=judged), UNCHANGED, record.facts)
    return Observation(request, State(*facility.read(), asked))


def plan_services(host: Host, node: Node, desired: Compiled, observation: Observation) -> NftablesPlan:
    """Return what makes of the observed state the one that is asked for."""
    seen: State = observation.state
    if seen is UNCHANGED:
        return NftablesPlan(host, {}, UNCHANGED, ServiceFacts)
    services = _wanted_services(observation.request, desired, node, seen.held)
    kept = _kept_empty(observation.request, services, seen.held, host.tracking)
    wanted = {
        TABLES[family]: make_table(services[family], node, family)
        for family in TABLES
        if services[family] or family in kept or _keeps_guard(observation.request, node, family, seen.held)
    }
    return NftablesPlan(host, wanted, seen, lambda: facts_of(desired.services, node))


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
