# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IPVS without a kernel: the interface of `kernel.ipvs.Ipvs` over virtual services in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    HeldService,
    IpvsRefusedError,
    ServiceKey,
    SetDestination,
    SetService,
    Timeouts,
)


class RefusedError(IpvsRefusedError):
    """The fake was told to fail here."""


class FakeIpvs:
    """held: what is there. refuse: the change that fails, counted from 0; like the kernel it goes on behind it. active:
    connections of every destination. states: what was held after each change.
    """

    def __init__(self, held: dict[ServiceKey, HeldService], refuse: int = -1, active: int = 0) -> None:
        self.held = {key: one._replace(destinations=dict(one.destinations)) for key, one in held.items()}
        self.refuse, self.active = refuse, active
        self.changes: list[Any] = []
        self.states: list[dict[ServiceKey, HeldService]] = []
        self.given = Timeouts(900, 120, 300)

    def services(self) -> dict[ServiceKey, HeldService]:
        return {key: one._replace(destinations=dict(one.destinations)) for key, one in self.held.items()}

    def service(self, key: ServiceKey) -> HeldService | None:
        return self.services().get(key)

    def open_connections(self) -> int:
        return 0

    def connections(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[tuple[str, int], tuple[int, int]]]:
        return {key: dict.fromkeys(self.held[key].destinations, (self.active, 0)) for key in keys}

    def timeouts(self) -> Timeouts:
        return self.given

    def set_timeouts(self, timeouts: Timeouts) -> None:
        self.given = timeouts

    def apply(self, changes: Sequence[Any]) -> None:
        made = []
        refused = False
        for change in changes:
            self.refuse -= 1
            if self.refuse == -1:
                refused = True
                continue
            try:
                self._make(change)
            except KeyError:
                assert refused, f"nothing there to change: {change}"
                continue
            made.append(change)
            self.states.append(self.services())
        if refused:
            error = RefusedError("refused")
            error.made = made
            raise error

    def _make(self, change: Any) -> None:
        if isinstance(change, AddService):
            assert change.service.key not in self.held
            self.held[change.service.key] = HeldService(change.service, {})
        elif isinstance(change, SetService):
            self.held[change.service.key] = self.held[change.service.key]._replace(service=change.service)
        elif isinstance(change, DeleteService):
            del self.held[change.key]
        else:
            self._make_destination(change, self.held[change.key].destinations)
        self.changes.append(change)

    def _make_destination(self, change: Any, destinations: dict[Any, Any]) -> None:
        if isinstance(change, DeleteDestination):
            del destinations[change.endpoint]
            return
        at = (change.destination.address, change.destination.port)
        assert (at in destinations) == isinstance(change, SetDestination), change
        assert isinstance(change, (AddDestination, SetDestination))
        destinations[at] = change.destination
