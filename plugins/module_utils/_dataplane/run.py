# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which dataplanes a run concerns: the one that it asks for, and the one that the node has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple, Union, cast

from .._kernel.iptables import Xtables
from .._kernel.ipvs import NoIpvsError
from .._model.request import Request
from .._model.service import InvalidServices, Node, Service
from .._objects.conntrack import Endpoint
from .._objects.ipvs import HeldService, ServiceKey, Timeouts
from .._plan.transaction import run
from .iptables.host import Change, Kernel, NoSets, plan_services
from .iptables.plan import Summary
from .ipvs.change import Device, Ipvs, IpvsChange, IpvsKernel, Sets, Sysctls
from .ipvs.host import moved, plan_ipvs, plan_leaving
from .ipvs.sets import set_names
from .udp_cleanup import Reconciliation


class NoIpvs:
    """IPVS of a kernel that has none, where something is to go."""

    def services(self) -> dict[ServiceKey, HeldService]:
        return {}

    def apply(self, changes: Sequence[object]) -> None:
        """There is nothing to change."""

    def connections(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[Endpoint, tuple[int, int]]]:
        return {key: {} for key in keys}

    def timeouts(self) -> Timeouts:
        return Timeouts(0, 0, 0)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """There is nothing to set."""


class Facilities(NamedTuple):
    """What a node has. ipvs: opens it, or raises NoIpvsError where the kernel has none."""

    kernel: Kernel
    tables: Mapping[str, Xtables]
    sets: Sets | NoSets
    device: Device
    sysctls: Sysctls
    ipvs: Callable[[], Ipvs]


class Switch(NamedTuple):
    """From ipvs to iptables: iptables takes over, then what IPVS had goes."""

    taken_over: Change
    left: IpvsChange

    @property
    def services(self) -> Sequence[Service]:
        return self.taken_over.services

    @property
    def changed(self) -> bool:
        return self.taken_over.changed or self.left.changed

    @property
    def diff(self) -> dict[str, str]:
        first, then = self.taken_over.diff, self.left.diff
        return {side: first[side] + then[side] for side in first}

    @property
    def summary(self) -> Summary:
        return moved(self.taken_over.summary, set(self.left.summary.removed))

    @property
    def reconciliation(self) -> Reconciliation:
        first, then = self.taken_over.reconciliation, self.left.reconciliation
        return first._replace(targets={**then.targets, **first.targets})

    def apply(self) -> None:
        """All or nothing. Raises what the failing facility said."""
        run([*self.taken_over.steps(), *self.left.steps()])


AnyChange = Union[Change, IpvsChange, Switch]


def plan_run(request: Request, node: Node, has: Facilities) -> AnyChange:
    """Everything up to applying. Raises InvalidServices for what is wrong in the request, and what a facility says."""
    if request.dataplane == "ipvs" and isinstance(has.sets, NoSets):
        raise InvalidServices(["dataplane is ipvs, which needs ipset: " + has.sets.why])
    remains = has_remains(node, has)
    if request.state == "present" and request.dataplane == "ipvs":
        return plan_ipvs(request, node, ipvs_kernel(has, has.ipvs()))
    if not remains:
        return plan_services(request, node, has.kernel)
    try:
        kernel = ipvs_kernel(has, has.ipvs())
    except NoIpvsError:
        kernel = ipvs_kernel(has, NoIpvs())
    if request.state == "absent":
        return plan_ipvs(request, node, kernel)
    return Switch(plan_services(request, node, has.kernel), plan_leaving(request, node, kernel))


def apply(change: AnyChange, has: Facilities) -> None:
    """All or nothing. Raises what the failing facility said."""
    change.apply()
    if isinstance(change, IpvsChange) and has.kernel.records:
        has.kernel.records.forget()  # they are of the iptables dataplane, which has no services here any more


def has_remains(node: Node, has: Facilities) -> bool:
    """Whether the ipvs dataplane is, or was, in use on this node."""
    return has.device.state() is not None or not set_names(node.chain_prefix).isdisjoint(has.sets.headers())


def ipvs_kernel(has: Facilities, ipvs: Ipvs) -> IpvsKernel:
    """The facilities of the ipvs dataplane, with IPVS opened."""
    kernel = has.kernel
    sets = cast(Sets, has.sets)  # NoSets lists none, so that nothing else is asked of it
    return IpvsKernel(has.tables, sets, kernel.tracking, ipvs, has.device, has.sysctls)
