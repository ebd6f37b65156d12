# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a node has anything of the ipvs dataplane: all that a run of another one needs to know of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..._kernel import dummy as kernel
from ..._kernel.ipset import IpsetError
from ..._kernel.nft import NftError
from ..._model.service import Node
from ..._objects.iptables_text import XtablesError
from ..._objects.node_facts import SERVICE_DEVICE, DeviceState
from ..interface import Host
from ..netfilter.facilities import chain_presence, sets
from .names import services_chain, set_names


class Device(Protocol):
    """What is needed of the device that holds the addresses (`_kernel.dummy.Device`)."""

    def state(self) -> DeviceState | None: ...

    def create(self) -> None: ...

    def set_up(self, up: bool) -> None: ...

    def delete(self) -> None: ...

    def add(self, addresses: Iterable[str]) -> None: ...

    def remove(self, addresses: Iterable[str]) -> None: ...


def device(dummy: Host) -> Device:
    """Return the device that holds the addresses."""
    return kernel.Device(SERVICE_DEVICE)


class IpvsPresence:
    """The part of the dataplane that is asked in runs of others."""

    name = "ipvs"
    takes_input = True
    uses_iptables = True
    errors: tuple[type[Exception], ...] = (kernel.DeviceError, IpsetError, NftError, XtablesError)

    def in_use(self, host: Host, node: Node) -> bool:
        """Tell whether the node has a device, a set or a chain of this dataplane."""
        prefix = node.chain_prefix
        return (
            host.facility(device).state() is not None
            or not set_names(prefix).isdisjoint(host.facility(sets).headers())
            or host.facility(chain_presence)([services_chain(prefix)])
        )
