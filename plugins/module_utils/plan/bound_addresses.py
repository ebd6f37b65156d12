# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device that holds the addresses of services in the ipvs dataplane, wanted against held. Pure."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Set

from .. import addresses as ip
from ..dataplane.frontends import DEVICE
from ..service import InvalidServices
from ..surroundings import DeviceState

_KIND = "dummy"


class AddressPlan(NamedTuple):
    """Addresses that the device gets and loses, and what becomes of the device itself."""

    add: Sequence[str]
    remove: Sequence[str]
    create: bool
    up: bool
    delete: bool

    @property
    def changed(self) -> bool:
        return bool(self.add or self.remove or self.create or self.up or self.delete)

    def before(self) -> List[str]:
        own = ["link add %s type dummy" % DEVICE] if self.delete else ["link set %s down" % DEVICE] if self.up else []
        return own + [_address_line(address) for address in self.remove]

    def after(self) -> List[str]:
        own = ["link add %s type dummy" % DEVICE] if self.create else []
        own += ["link set %s up" % DEVICE] if self.create or self.up else []
        return own + [_address_line(address) for address in self.add]


def plan_addresses(wanted: Set[str], state: Optional[DeviceState]) -> AddressPlan:
    """state: None where there is no device. Raises InvalidServices when it is somebody else's."""
    if state is not None and state.kind != _KIND:
        problem = "device %s exists and is of kind %s: must be %s: rename it"
        raise InvalidServices([problem % (DEVICE, state.kind or "physical", _KIND)])
    held = state.addresses if state else frozenset()
    return AddressPlan(
        sorted(wanted - held, key=ip.sort_key),
        sorted(held - wanted, key=ip.sort_key),
        create=bool(wanted) and state is None,
        up=bool(wanted) and state is not None and not state.up,
        delete=not wanted and state is not None,
    )


def _address_line(address: str) -> str:
    return "address add %s dev %s" % (ip.host_network(address), DEVICE)
