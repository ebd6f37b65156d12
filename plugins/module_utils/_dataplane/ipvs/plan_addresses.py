# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device that holds the addresses of services in the ipvs dataplane, wanted against held. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.service import InvalidServices
from ..._objects.node_facts import DeviceState
from .compile import DEVICE

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

    def before(self) -> list[str]:
        own = [f"link add {DEVICE} type dummy"] if self.delete else [f"link set {DEVICE} down"] if self.up else []
        return own + [_address_line(address) for address in self.remove]

    def after(self) -> list[str]:
        own = [f"link add {DEVICE} type dummy"] if self.create else []
        own += [f"link set {DEVICE} up"] if self.create or self.up else []
        return own + [_address_line(address) for address in self.add]


def plan_addresses(wanted: set[str], state: DeviceState | None) -> AddressPlan:
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
    return f"address add {ip.host_network(address)} dev {DEVICE}"
