# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change of the ipvs dataplane: what people read of it, and the order in which it is applied.

Sets and rules come before the virtual services that need them, destinations before the address that leads to them; what goes,
goes in the opposite order.
"""

from __future__ import annotations

from functools import partial
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Protocol, Sequence

from .converge_conntrack import Reconciliation, Tracking
from .families import AllTables, FamilyPlans
from .ipset_types import HeldSet
from .ipvs_types import HeldService, ServiceKey, Timeouts
from .plan.affinity import SetPlan
from .plan.bound_addresses import AddressPlan
from .plan.chains import ChainPlan
from .plan.ipvs_settings import SettingsPlan
from .plan.service_sets import ServiceSetsPlan
from .plan.services import Summary
from .plan.set_steps import SetFacility, bind
from .plan.staged_chains import StagedChains
from .plan.virtual_services import VirtualServicePlan
from .service import Service
from .surroundings import DeviceState
from .transaction import Step, run
from .virtual_steps import VirtualServices, virtual_step, wait_step


class Device(Protocol):
    """What is needed of the device that holds the addresses (`kernel.dummy.Device`)."""

    def state(self) -> Optional[DeviceState]: ...

    def create(self) -> None: ...

    def set_up(self, up: bool) -> None: ...

    def delete(self) -> None: ...

    def add(self, addresses: Iterable[str]) -> None: ...

    def remove(self, addresses: Iterable[str]) -> None: ...


class Sysctls(Protocol):
    """What is needed of the sysctls (`kernel.sysctl`)."""

    def read(self, name: str) -> Optional[int]: ...

    def write(self, name: str, value: int) -> None: ...


class Ipvs(VirtualServices, Protocol):
    """What is needed of IPVS (`kernel.ipvs.Ipvs`)."""

    def services(self) -> Dict[ServiceKey, HeldService]: ...

    def timeouts(self) -> Timeouts: ...

    def set_timeouts(self, timeouts: Timeouts) -> None: ...


class Sets(SetFacility, Protocol):
    """What is needed of the ipsets (`kernel.ipset.Ipset`)."""

    def headers(self) -> Dict[str, HeldSet]: ...


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
    def diff(self) -> Dict[str, str]:
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

    def steps(self) -> List[Step]:
        """In their order."""
        return [*self._coming(), *self._going()]

    def _coming(self) -> List[Step]:
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

    def _going(self) -> List[Step]:
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

    def _chain_steps(self, stage: str) -> List[Step]:
        plans: Dict[str, ChainPlan] = {family: getattr(staged, stage) for family, staged in self.chains.items()}
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
