# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change of the ipvs dataplane: what people read of it, and the order in which it is applied.

Sets and rules come before the virtual services that need them, destinations before the address that leads to them; what goes,
goes in the opposite order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from ..._model.service import Service
from ..._objects.ipset import HeldSet
from ..._objects.ipvs import HeldService, ServiceKey, Timeouts
from ..._objects.node_facts import DeviceState
from ..._plan.ipset_steps import SetFacility, bind
from ..._plan.iptables import ChainPlan
from ..._plan.iptables_steps import AllTables, FamilyPlans
from ..._plan.ipvs import VirtualServicePlan
from ..._plan.ipvs_steps import VirtualServices, virtual_step, wait_step
from ..._plan.transaction import Step, run
from ..iptables.plan import Summary
from ..netfilter.affinity import SetPlan
from ..udp_cleanup import Reconciliation, Tracking
from .plan_addresses import AddressPlan
from .plan_sets import ServiceSetsPlan
from .plan_settings import SettingsPlan
from .stages import StagedChains


class Device(Protocol):
    """What is needed of the device that holds the addresses (`kernel.dummy.Device`)."""

    def state(self) -> DeviceState | None: ...

    def create(self) -> None: ...

    def set_up(self, up: bool) -> None: ...

    def delete(self) -> None: ...

    def add(self, addresses: Iterable[str]) -> None: ...

    def remove(self, addresses: Iterable[str]) -> None: ...


class Sysctls(Protocol):
    """What is needed of the sysctls (`kernel.sysctl`)."""

    def read(self, name: str) -> int | None: ...

    def write(self, name: str, value: int) -> None: ...


class Ipvs(VirtualServices, Protocol):
    """What is needed of IPVS (`kernel.ipvs.Ipvs`)."""

    def services(self) -> dict[ServiceKey, HeldService]: ...

    def timeouts(self) -> Timeouts: ...

    def set_timeouts(self, timeouts: Timeouts) -> None: ...


class Sets(SetFacility, Protocol):
    """What is needed of the ipsets (`kernel.ipset.Ipset`)."""

    def headers(self) -> dict[str, HeldSet]: ...


class IpvsKernel(NamedTuple):
    """The facilities of a node."""

    tables: Mapping[str, AllTables]
    sets: Sets
    tracking: Tracking
    ipvs: Ipvs
    device: Device
    sysctls: Sysctls


class IpvsChange(NamedTuple):
    """What will be done to a node, and what it means."""

    summary: Summary
    services: Sequence[Service]
    reconciliation: Reconciliation
    kernel: IpvsKernel
    drain_timeout: int
    settings: SettingsPlan
    addresses: AddressPlan
    sets: ServiceSetsPlan
    chains: Mapping[str, StagedChains]
    virtual: VirtualServicePlan
    affinity: SetPlan

    @property
    def changed(self) -> bool:
        whole = any(staged.whole.changed for staged in self.chains.values())
        parts = (self.settings, self.addresses, self.sets, self.virtual, self.affinity)
        return whole or any(part.changed for part in parts)

    @property
    def diff(self) -> dict[str, str]:
        """The lines that go and come, each part under the name of its tool."""
        chains = FamilyPlans({family: one.whole for family, one in self.chains.items()}, self.kernel.tables).diff
        return {side: self._side(side, chains[side]) for side in ("before", "after")}

    def _side(self, side: str, chains: str) -> str:
        settings = self.settings.lines(0 if side == "before" else 1)
        links = self.addresses.before() if side == "before" else self.addresses.after()
        sections = {
            "# sysctl": _text(settings["sysctl"]),
            "# ipset": getattr(self.affinity, side) + getattr(self.sets, side),
            "": chains,
            "# ipvsadm": _text(settings["ipvsadm"]) + getattr(self.virtual, side),
            "# ip -batch": _text(links),
        }
        return "".join((title + "\n" if title else "") + text for title, text in sections.items() if text)

    def apply(self) -> None:
        """All or nothing. Raises what the failing facility said."""
        run(self.steps())

    def steps(self) -> list[Step]:
        """In their order."""
        return [*self._coming(), *self._going()]

    def _coming(self) -> list[Step]:
        ipvs, device = self.kernel.ipvs, self.kernel.device
        steps = [
            Step(partial(self.kernel.sysctls.write, name, new), partial(self.kernel.sysctls.write, name, old))
            for name, (old, new) in sorted(self.settings.sysctls.items())
        ]
        if self.settings.timeouts:
            old, new = self.settings.timeouts
            steps.append(Step(partial(ipvs.set_timeouts, new), partial(ipvs.set_timeouts, old)))
        steps += bind(self.sets.additions, self.kernel.sets)
        steps += self._chain_steps("prepared")
        steps.append(virtual_step(self.virtual, self.virtual.additions, ipvs))
        if self.addresses.create:
            steps.append(Step(device.create, device.delete))
        if self.addresses.up:
            steps.append(Step(partial(device.set_up, True), partial(device.set_up, False)))
        steps.append(_address_step(device, self.addresses.add, []))
        return steps + self._chain_steps("switched")

    def _going(self) -> list[Step]:
        sets, device, ipvs = self.kernel.sets, self.kernel.device, self.kernel.ipvs
        steps = [Step(partial(sets.destroy, old.name), partial(sets.create, old)) for old in self.affinity.destroy]
        if self.drain_timeout and self.virtual.draining:
            steps.append(virtual_step(self.virtual, self.virtual.drain, ipvs))
            steps.append(wait_step(self.virtual.draining, ipvs, self.drain_timeout))
        steps.append(_address_step(device, [], self.addresses.remove))
        steps.append(virtual_step(self.virtual, self.virtual.removals, ipvs))
        steps += bind(self.sets.removals, sets)
        steps += self._chain_steps("removed")
        steps += bind(self.sets.destroyed, sets)
        if self.addresses.delete:
            steps.append(Step(device.delete, device.create))
        return steps

    def _chain_steps(self, stage: str) -> list[Step]:
        plans: dict[str, ChainPlan] = {family: getattr(staged, stage) for family, staged in self.chains.items()}
        return FamilyPlans(plans, self.kernel.tables).steps()


def _address_step(device: Device, add: Sequence[str], remove: Sequence[str]) -> Step:
    """Addresses that come, or that go. What was done of a step that fails is taken back."""

    def apply() -> None:
        try:
            device.add(add)
            device.remove(remove)
        except Exception:
            undo()
            raise

    def undo() -> None:
        device.remove(add)
        device.add(remove)

    return Step(apply, undo) if add or remove else Step(_nothing, _nothing)


def _nothing() -> None:
    """A step with nothing to do, or to take back."""


def _text(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)
