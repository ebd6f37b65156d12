# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changes in the ipvs dataplane of a node, and the order in which it does.

Sets and rules come before the virtual services that need them, destinations before the address that leads to them; what is
removed is removed in the opposite order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from ..._kernel.ipvs_fingerprint import total
from ..._model.service import InvalidServices, Node
from ..._model.service_facts import facts_of, merged_facts
from ..._objects.ipvs import HeldService, ServiceKey
from ..._plan.ipset_steps import bind
from ..._plan.iptables import ChainPlan
from ..._plan.iptables_steps import FamilyPlans
from ..._plan.ipvs import plan_virtual_services
from ..._plan.ipvs_steps import settle_step, virtual_step, wait_step
from ..._plan.transaction import Step
from ..interface import Host, Observation, Summary
from ..netfilter.facilities import sets, tables
from ..netfilter.other_variant import Leftovers
from .cache import Fingerprint, Record, encode, settings_digest, store
from .compile import Compiled, Frontends, bound_addresses
from .host import State, digest_of_sets, sysctls
from .ownership import foreign_services, merged, summarise, virtual_services
from .plan_addresses import plan_addresses
from .plan_sets import SetDifference, plan_service_sets
from .plan_settings import SettingsPlan, plan_settings, wanted_sysctls
from .presence import Device, IpvsPresence, device
from .sets import WantedSet, wanted_sets


class Wanted(NamedTuple):
    """What a node is to hold."""

    frontends: Frontends
    virtual: Mapping[ServiceKey, HeldService]
    sets: Mapping[str, WantedSet]
    addresses: set[str]


def _wanted(frontends: Frontends, node: Node) -> Wanted:
    addresses = bound_addresses(frontends.values(), node)
    return Wanted(frontends, virtual_services(frontends), wanted_sets(frontends, node), addresses)


class IpvsPlan:
    """The difference, as `interface.Plan` describes it."""

    def __init__(
        self,
        host: Host,
        node: Node,
        wanted: Wanted,
        ours: Frontends,
        state: State,
        leftovers: Leftovers,
        is_replaced: bool,
        leave: Callable[[IpvsPlan], None] | None = None,
    ) -> None:
        """is_replaced: whether another dataplane carries new connections by the time that this one retires.

        leave: what leaves a record for the next run, or takes it away, once all is done."""
        self._host, self._node, self._ipvs, self._leftovers = host, node, state.ipvs, leftovers
        self._is_replaced, self._leave = is_replaced, leave
        self.wanted, self._ours = wanted, ours
        self._chains = state.plan_chains(wanted.frontends)
        self._settings = _settings(wanted.frontends, state, node, host)
        self._addresses = plan_addresses(wanted.addresses, state.device)
        self.sets = plan_service_sets(wanted.sets, state.sets)
        held = {key: state.virtual[key] for key in ours if key in state.virtual}
        self._virtual = plan_virtual_services(wanted.virtual, held)

    @cached_property
    def summary(self) -> Summary:
        return summarise(self.wanted.frontends, self._ours)

    @property
    def changed(self) -> bool:
        return self.changes_more_than_services or self.sets.changed or self._virtual.changed

    @property
    def changes_more_than_services(self) -> bool:
        """Whether more changes than virtual services and sets."""
        whole = any(staged.whole.changed for staged in self._chains.values())
        return whole or any(part.changed for part in (self._settings, self._addresses, self._leftovers))

    @cached_property
    def diff(self) -> dict[str, str]:
        chains = FamilyPlans({family: one.whole for family, one in self._chains.items()}, {}).diff
        return {
            "before": self._side("before", chains["before"]) + self._leftovers.before,
            "after": self._side("after", chains["after"]),
        }

    def _side(self, side: str, chains: str) -> str:
        settings = self._settings.lines(0 if side == "before" else 1)
        links = self._addresses.before() if side == "before" else self._addresses.after()
        sections = {
            "# sysctl": _text(settings["sysctl"]),
            "# ipset": getattr(self.sets, side),
            "": chains,
            "# ipvsadm": _text(settings["ipvsadm"]) + getattr(self._virtual, side),
            "# ip -batch": _text(links),
        }
        return "".join((title + "\n" if title else "") + text for title, text in sections.items() if text)

    def prepare(self) -> list[Step]:
        """Settings, sets, rules that only mark, and virtual services that no address leads to yet."""
        write = self._host.facility(sysctls).write
        steps = [
            Step(partial(write, name, new), partial(write, name, old))
            for name, (old, new) in sorted(self._settings.sysctls.items())
        ]
        if self._settings.timeouts:
            old, new = self._settings.timeouts
            steps.append(Step(partial(self._ipvs.set_timeouts, new), partial(self._ipvs.set_timeouts, old)))
        steps += bind(self.sets.additions, self._host.facility(sets))
        steps += self._chain_steps("prepared")
        if self._virtual.additions:
            steps.append(virtual_step(self._virtual, self._virtual.additions, self._ipvs))
        return steps

    def activate(self) -> list[Step]:
        """Bind the addresses; then service traffic is no other tool's to rewrite."""
        held = self._host.facility(device)
        steps = []
        if self._addresses.create:
            steps.append(Step(held.create, held.delete))
        if self._addresses.up:
            steps.append(Step(partial(held.set_up, True), partial(held.set_up, False)))
        return [*steps, *_address_steps(held, self._addresses.add, []), *self._chain_steps("activated")]

    def retire(self) -> list[Step]:
        """Wait for connections where that is asked for, then remove addresses, virtual services, sets, rules and the device."""
        held, facility, virtual = self._host.facility(device), self._host.facility(sets), self._virtual
        steps = []
        if self._node.drain_timeout and virtual.draining:
            steps.append(virtual_step(virtual, virtual.drain, self._ipvs))
            steps.append(wait_step(virtual.draining, self._ipvs, self._node.drain_timeout))
        elif self._is_replaced and virtual.draining:
            steps.append(settle_step(self._ipvs))
        steps += _address_steps(held, [], self._addresses.remove)
        if virtual.removals:
            steps.append(virtual_step(virtual, virtual.removals, self._ipvs))
        steps += bind(self.sets.removals, facility)
        steps += self._chain_steps("removed")
        steps += bind(self.sets.destroyed, facility)
        if self._addresses.delete:
            steps.append(Step(held.delete, held.create))
        steps += self._leftovers.steps()
        if self._leave:
            steps.append(Step(partial(self._leave, self), self._host.facility(store).forget))
        return steps

    def _chain_steps(self, stage: str) -> list[Step]:
        plans: dict[str, ChainPlan] = {family: getattr(staged, stage) for family, staged in self._chains.items()}
        return FamilyPlans(plans, self._host.facility(tables)).steps()


def plan_frontends(
    host: Host, node: Node, compiled: Compiled, observation: Observation, leftovers: Leftovers
) -> IpvsPlan:
    """Return what makes of the observed state the one that is asked for. Raises what a facility says, and InvalidServices."""
    state: State = observation.state
    request, desired = observation.request, compiled.frontends
    ours = state.ours(desired)
    problems = foreign_services(desired, ours, state.virtual)
    if problems:
        raise InvalidServices(problems)
    names = request.removed.union(raw["name"] for raw in request.services)
    if request.state == "absent":
        wanted = {} if request.exclusive else {key: one for key, one in ours.items() if one.service not in names}
    else:
        wanted = desired if request.exclusive else merged(desired, ours, names)
    leave: Callable[[IpvsPlan], None] | None = None
    if state.asked:
        leave = partial(_leave_record, host, node, compiled, observation)
    elif not wanted and (request.exclusive or request.state == "absent"):
        leave = partial(_forget_record, host)
    is_replaced = request.dataplane != IpvsPresence.name
    return IpvsPlan(host, node, _wanted(wanted, node), ours, state, leftovers, is_replaced, leave)


def _leave_record(host: Host, node: Node, compiled: Compiled, observation: Observation, done: IpvsPlan) -> None:
    """Leave what the node holds behind the run, so that the next one need not look at what it finds unchanged."""
    state: State = observation.state
    held = state.found if not done.changed else _held_behind(host, node, state, done)
    if held is None:
        host.facility(store).forget()
        return
    facts = merged_facts([observation.facts, facts_of(compiled.services, node)])
    has_udp = bool(observation.request.unchanged) or any(one.protocol == "udp" for one in compiled.services)
    facts = facts._replace(addresses=facts.addresses.difference(done.wanted.addresses))
    record = Record(state.asked, settings_digest(node), held, has_udp, facts)
    host.facility(store).save(encode(record, state.services))


def _forget_record(host: Host, dummy: IpvsPlan) -> None:
    """With the last service goes what runs have left. A run that was narrowed to nothing leaves it."""
    host.facility(store).forget()


def _held_behind(host: Host, node: Node, state: State, done: IpvsPlan) -> Fingerprint | None:
    """Return what the node holds behind a run that has changed it; None unless it is what was asked for, down to the last entry.

    Others may change the node while a run does: a fingerprint stands for nothing that the run has not seen to be right.
    """
    if state.untouched is not None and state.found:
        return _held_behind_narrowed(host, state, state.found, done)
    fresh = State(host, node, True)
    held = fresh.read_with_fingerprint()
    ours = fresh.ours(done.wanted.frontends)
    again = IpvsPlan(host, node, done.wanted, ours, fresh, Leftovers({}, {}), is_replaced=False)
    return None if again.changed else held


def _held_behind_narrowed(host: Host, state: State, before: Fingerprint, done: IpvsPlan) -> Fingerprint | None:
    """The same of a run that looks at some services: what it does not change is as it was before."""
    wanted, facility = done.wanted.virtual, host.facility(sets)
    number, held = state.ipvs.snapshot(wanted)
    images = facility.images(state.images) if done.sets.changed else state.images
    seen = SetDifference({}, {})
    for name in sorted(state.images.keys() & images.keys()):
        old, new = state.images[name], images[name]
        seen.add(name, facility.decode(old, old.entries - new.entries), facility.decode(new, new.entries - old.entries))
    if (
        done.changes_more_than_services
        or plan_virtual_services(wanted, held).changed
        or state.images.keys() != images.keys()
        or seen != done.sets.difference()
    ):
        return None
    return Fingerprint(total([state.untouched or 0, number]), digest_of_sets(images), before.rest)


def _settings(wanted: Frontends, state: State, node: Node, host: Host) -> SettingsPlan:
    values = wanted_sysctls(node, wanted)
    if not values:
        return SettingsPlan({}, None)
    held = {name: host.facility(sysctls).read(name) for name in values}
    return plan_settings(node, values, held, state.ipvs.timeouts())


def _address_steps(held: Device, add: Sequence[str], remove: Sequence[str]) -> list[Step]:
    """Addresses that are added, or removed. What was done of a step that fails is taken back."""

    def apply() -> None:
        try:
            held.add(add)
            held.remove(remove)
        except Exception:
            undo()
            raise

    def undo() -> None:
        held.remove(add)
        held.add(remove)

    return [Step(apply, undo)] if add or remove else []


def _text(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)
