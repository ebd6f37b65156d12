# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of a node: what a request changes in its dataplanes, and the steps that do it.

A switch of dataplane is no case of its own: what other dataplanes hold is one more plan, of which everything is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from .._kernel.conntrack import ConntrackError
from .._kernel.nft import NftError
from .._model.conflicts import Claim, backends_at_services, claims, conflicts, endpoints_of, services_at_backends
from .._model.families import by_family
from .._model.own_ports import OwnPort
from .._model.request import Request
from .._model.service import InvalidServices, Node, Service
from .._model.service_facts import ServiceFacts, facts_of, merged_facts
from .._node_checks.facts import chains_of_others, refuse_own_connection, warnings
from .._objects.boot import BootState
from .._plan.transaction import Step, UndoFailed
from .._plan.transaction import run as run_steps
from . import registry
from .conntrack_cleanup import ConntrackCleanup, plan_cleanup
from .interface import Dataplane, Host, Observation, Plan, Presence, Summary

_MOST_NAMED = 5
"""Services that an error names."""


class RunError(Exception):
    """A facility of the host refused, or could not be read; the text is one line for the user."""


class Part(NamedTuple):
    """What a run means in one dataplane."""

    dataplane: Dataplane
    observation: Observation
    services: Sequence[Service]
    """Those that the request, narrowed by the observation, has present."""
    names: frozenset[str]
    """Those that it names, present or to be removed."""
    plan: Plan
    compiled: Any | None = None
    """What all services that the dataplane is to hold compile to; None where the run looked at some of them only."""


class NodeRun:
    """What will be done to a node, and what it means. Nothing is changed before `apply`."""

    def __init__(self, parts: Sequence[Part], node: Node, host: Host) -> None:
        self.parts = parts
        self._node, self._host = node, host
        self.opens_localhost = False
        """Whether the caller sets route_localnet once the rules stand, so that it is no lack before."""

    @property
    def changed(self) -> bool:
        return any(part.plan.changed for part in self.parts)

    @cached_property
    def diff(self) -> dict[str, str]:
        """The lines that are removed (``before``) and added (``after``), of the new dataplane first."""
        diffs = [part.plan.diff for part in self.parts]
        return {side: "".join(diff[side] for diff in diffs) for side in ("before", "after")}

    @cached_property
    def summary(self) -> Summary:
        """What becomes of which service: one that only moves from one dataplane to another is updated."""
        first, *others = [part.plan.summary for part in self.parts]
        if not others:
            return first
        removed = {name for other in others for name in other.removed}
        stay = {*first.added, *first.updated, *self.parts[0].names} - {*first.removed}
        added = set(first.added) - removed
        updated = {*first.updated, *first.added, *(removed & stay)} - added
        changed = {name for other in others for name in other.updated}
        return Summary(sorted(added), sorted(updated | changed - removed), sorted({*first.removed, *removed} - stay))

    @cached_property
    def warnings(self) -> list[str]:
        """What is likely to keep services from working on this node, one line each. Reads the node. Raises RunError."""
        if not self._facts.families:
            return []
        with self._reported():
            return self._warnings(self._facts)

    @cached_property
    def _facts(self) -> ServiceFacts:
        """Of all services that the request has present."""
        part = self.parts[0]
        return merged_facts([facts_of(part.services, self._node), part.observation.facts])

    def refuse_own_connection(self) -> None:
        """Raise InvalidServices where a service would take the port by which the run is connected. Reads the node."""
        if self._facts.own_ports:
            refuse_own_connection(map(OwnPort.from_text, self._facts.own_ports), self._node)

    def _warnings(self, facts: ServiceFacts) -> list[str]:
        part = self.parts[0]
        chains = part.observation.foreign_chains
        bound = part.dataplane.bound_addresses(part.services, self._node)
        node = self._node._replace(localhost_node_ports=False) if self.opens_localhost else self._node
        chains = chains_of_others() if chains is None else chains
        found = warnings(facts, bound, node, self._host.runner, chains, part.dataplane.takes_input)
        return found + part.dataplane.warnings(self._host, part.observation, self._node, facts.families)

    @cached_property
    def cleanup(self) -> ConntrackCleanup:
        """Which UDP flows have to be judged once the plan is applied, and by what."""
        return plan_cleanup(*_flows(self.parts, self._node), self._node, self._host.tracking)

    def boot_state(self) -> BootState | None:
        """Return what the dataplane holds behind the run; None where the run looked at some of the services only."""
        part = self.parts[0]
        return None if part.compiled is None else part.dataplane.render(part.compiled, self._node)

    def steps(self) -> list[Step]:
        """All that is done, in order: what may stand side by side, what takes over, what is removed."""
        plans = [part.plan for part in self.parts]
        return [
            *(step for plan in plans for step in plan.prepare()),
            *(step for plan in plans for step in plan.activate()),
            *(step for plan in plans for step in plan.retire()),
        ]

    def apply(self) -> None:
        """All or nothing. Raises RunError."""
        with self._reported():
            run_steps(self.steps())

    def clean_up(self) -> int:
        """Remove the UDP flows that lead nowhere now, in check mode only count them; how many. Raises RunError."""
        with self._reported():
            return self.cleanup.run(delete=not self._host.check_mode)

    def _reported(self) -> AbstractContextManager[None]:
        return _reported([part.dataplane for part in self.parts])


def plan_run(request: Request, node: Node, host: Host) -> NodeRun:
    """Plan a run up to applying. Raises InvalidServices for what is wrong in the request, and RunError."""
    dataplanes = _participants(request, node, host)
    with _reported(dataplanes):
        first = _plan_part(dataplanes[0], request, node, host)
        if request.state == "absent":
            others = [_plan_part(one, request, node, host) for one in dataplanes[1:]]
        else:
            others = [_plan_removal(one, request, first.names, node, host) for one in dataplanes[1:]]
        planned = NodeRun([first, *others], node, host)
        planned.refuse_own_connection()
        planned.cleanup.probe()
        return planned


def _participants(request: Request, node: Node, host: Host) -> list[Dataplane]:
    """The dataplanes that a run concerns: the one that is asked for, and those in use. What is absent goes from these alone."""
    asked = registry.load(request.dataplane)
    others = [registry.presence(name) for name in registry.IMPLEMENTED if name != asked.name]
    with _reported(others):
        used = [registry.load(one.name) for one in others if one.in_use(host, node)]
    if request.state == "absent" and used:
        with _reported([asked]):
            return ([asked] if asked.in_use(host, node) else []) + used
    return [asked, *used]


def _plan_part(dataplane: Dataplane, request: Request, node: Node, host: Host) -> Part:
    observation = dataplane.observe(host, node, request)
    services, names = _parsed(dataplane, observation, request, node)
    desired = dataplane.compile(services, node)
    is_whole = observation.request is request and request.exclusive
    plan = dataplane.plan(host, node, desired, observation)
    return Part(dataplane, observation, services, names, plan, desired if is_whole else None)


def _parsed(
    dataplane: Dataplane, observation: Observation, request: Request, node: Node
) -> tuple[list[Service], frozenset[str]]:
    """The services that are to be present, and all that are named. Raises InvalidServices."""
    try:
        services, names = observation.request.parse(node, dataplane.problems)
        if request.state == "present" and not observation.request.exclusive:
            _refuse_conflicts(dataplane, observation, services, names, node)
    except InvalidServices:
        if observation.request is not request:
            request.parse(node, dataplane.problems)  # what is wrong is told with regard to all services
        raise
    return services, names


def _refuse_conflicts(
    dataplane: Dataplane, observation: Observation, services: Sequence[Service], names: Collection[str], node: Node
) -> None:
    """A service that stays as it is has what it has taken, and answers there, also to connections to a backend."""
    new = [claim for service in services for claim in claims(service)]
    led_to = {backend.address for service in services for backend in service.backends}
    at = {None, *node.addresses, *led_to, *(claim.address for claim in new)}
    held = dataplane.claims(observation, node, at=at)
    taken = {claim._replace(key=""): claim for found in held.values() for claim in found if claim.service not in names}
    problems = conflicts([*taken.values(), *new], node.addresses)
    problems += backends_at_services(services, taken.values(), node.addresses)
    had = {claim._replace(key="") for found in held.values() for claim in found if claim.service in names}
    fresh = [claim for claim in new if claim._replace(key="") not in had]
    if fresh:
        backends = dataplane.backends(observation, node, endpoints_of(fresh, node.addresses))
        problems += services_at_backends(fresh, [one for one in backends if one.service not in names], node.addresses)
    if problems:
        raise InvalidServices(problems)


def _plan_removal(dataplane: Dataplane, request: Request, names: frozenset[str], node: Node, host: Host) -> Part:
    """What another dataplane has goes. Raises InvalidServices where that is a service that the request does not name."""
    removal = Request("absent", [], True, request.dataplane)
    observation = dataplane.observe(host, node, removal)
    held = {claim.service for found in dataplane.claims(observation, node).values() for claim in found}
    if not request.exclusive and held - names:
        raise InvalidServices([_unnamed_services(dataplane.name, sorted(held - names))])
    plan = dataplane.plan(host, node, dataplane.compile([], node), observation)
    return Part(dataplane, observation, [], frozenset(held), plan)


def _unnamed_services(dataplane: str, names: Sequence[str]) -> str:
    """The error of switching the dataplane of some of a node's services only."""
    shown = ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
    return (
        f"dataplane cannot change for some services only: {shown} would be left in dataplane {dataplane}: "
        "name all services of the node, or set exclusive to true"
    )


def _flows(parts: Sequence[Part], node: Node) -> tuple[dict[str, list[Service]], dict[str, list[Claim]]]:
    """By address family: the services whose UDP flows are judged, and what services have had before the run."""
    first = parts[0].observation.request
    unchanged = (
        first._replace(services=first.unchanged).parse(node, parts[0].dataplane.problems)[0] if first.unchanged else []
    )
    had: dict[str, list[Claim]] = {}
    for part in parts:
        of = None if part.observation.request.exclusive else part.names
        for family, found in part.dataplane.claims(part.observation, node, of=of).items():
            had.setdefault(family, []).extend(found)
    return by_family([*parts[0].services, *unchanged], node), had


def info(name: str, node: Node, host: Host) -> dict[str, Any]:
    """Return what a node holds of a dataplane, as `interface.Dataplane.info` does. Raises RunError."""
    dataplane = registry.load(name)
    with _reported([dataplane]):
        return dataplane.info(host, node)


@contextmanager
def _reported(dataplanes: Iterable[Presence]) -> Iterator[None]:
    """Turn what facilities raise into RunError."""
    errors = [error for one in dataplanes for error in one.errors]
    try:
        yield
    except (ConntrackError, NftError, UndoFailed) as error:
        raise RunError(str(error)) from error
    except Exception as error:
        if isinstance(error, tuple(errors)):
            raise RunError(str(error)) from error
        raise
