# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between the virtual services that are wanted and those that IPVS holds. Pure.

Destinations come before others go, so that a virtual service that has some is never without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .._objects.conntrack import Endpoint
from .._objects.ipvs import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Destination,
    HeldService,
    IpvsChange,
    ServiceKey,
    SetDestination,
    SetService,
    destination_line,
    service_line,
)

Services = Mapping[ServiceKey, HeldService]
_DATAGRAMS = "udp"


class VirtualServicePlan(NamedTuple):
    """additions: what comes or becomes different. drain: what goes takes nothing new any more (not for UDP, which has no end
    to wait for). draining: destinations that are to lose their connections before they go. removals: it goes.
    """

    held: Services
    additions: list[IpvsChange]
    drain: list[SetDestination]
    draining: list[tuple[ServiceKey, Endpoint]]
    removals: list[IpvsChange]
    before: str
    after: str

    @property
    def changed(self) -> bool:
        return bool(self.additions or self.removals)

    def undo(self, changes: Sequence[IpvsChange]) -> list[IpvsChange]:
        """What takes back these changes of one phase, once they have been made."""
        return [inverse for change in reversed(changes) for inverse in self._inverse(change)]

    def _inverse(self, change: IpvsChange) -> list[IpvsChange]:
        if isinstance(change, AddService):
            return [DeleteService(change.service.key)]
        if isinstance(change, SetService):
            return [SetService(self.held[change.service.key].service)]
        if isinstance(change, DeleteService):
            whole = self.held[change.key]
            return [
                AddService(whole.service),
                *(AddDestination(change.key, one) for one in whole.destinations.values()),
            ]
        if isinstance(change, AddDestination):
            return [DeleteDestination(change.key, endpoint_of(change.destination))]
        if isinstance(change, SetDestination):
            return [SetDestination(change.key, self.held[change.key].destinations[endpoint_of(change.destination)])]
        return [AddDestination(change.key, self.held[change.key].destinations[change.endpoint])]


def endpoint_of(destination: Destination) -> Endpoint:
    return destination.address, destination.port


def plan_virtual_services(wanted: Services, held: Services) -> VirtualServicePlan:
    """held: only what may be changed; what is not wanted of it goes."""
    additions: list[IpvsChange] = []
    removals: list[IpvsChange] = []
    drain: list[SetDestination] = []
    draining: list[tuple[ServiceKey, Endpoint]] = []
    before: list[str] = []
    after: list[str] = []
    for key in sorted(wanted):
        want, have = wanted[key], held.get(key)
        if have is None:
            additions.append(AddService(want.service))
        elif have.service != want.service:
            additions.append(SetService(want.service))
        have_destinations = have.destinations if have else {}
        additions += _coming(key, want.destinations, have_destinations)
        going = {at: one for at, one in have_destinations.items() if at not in want.destinations}
        drain += _drained(key, going)
        draining += _draining(key, going)
        removals += [DeleteDestination(key, at) for at in going]
        before += _lines(have, want)
        after += _lines(want, have)
    for key in sorted(set(held) - set(wanted)):
        drain += _drained(key, held[key].destinations)
        draining += _draining(key, held[key].destinations)
        removals.append(DeleteService(key))
        before += _lines(held[key], None)
    return VirtualServicePlan(held, additions, drain, draining, removals, _text(before), _text(after))


def _coming(
    key: ServiceKey, want: Mapping[Endpoint, Destination], have: Mapping[Endpoint, Destination]
) -> list[IpvsChange]:
    """New destinations first, so that a weight of 0 never leaves a virtual service without one that takes connections."""
    added: list[IpvsChange] = [AddDestination(key, one) for at, one in want.items() if at not in have]
    changed = [SetDestination(key, one) for at, one in want.items() if at in have and have[at] != one]
    return added + sorted(changed, key=lambda change: not change.destination.weight)


def _drained(key: ServiceKey, going: Mapping[Endpoint, Destination]) -> list[SetDestination]:
    if key.protocol == _DATAGRAMS:
        return []
    return [SetDestination(key, one._replace(weight=0)) for one in going.values() if one.weight]


def _draining(key: ServiceKey, going: Iterable[Endpoint]) -> list[tuple[ServiceKey, Endpoint]]:
    return [] if key.protocol == _DATAGRAMS else [(key, endpoint) for endpoint in going]


def _lines(held: HeldService | None, other: HeldService | None) -> list[str]:
    """What of the one is not so in the other; a setting that has no word in the lines shows by its line on both sides."""
    if held is None:
        return []
    key = held.service.key
    service, destinations = (other.service, other.destinations) if other else (None, {})
    own = [service_line(held.service)] if held.service != service else []
    return own + [destination_line(key, one) for at, one in held.destinations.items() if destinations.get(at) != one]


def _text(lines: list[str]) -> str:
    """Sorted, which puts virtual services before destinations (``-A`` before ``-a``)."""
    return "".join(line + "\n" for line in sorted(lines))
