# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part ``announce`` of a run, and what other parts have to do with announced addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._announce.settings import parse_announcement
from .._kernel.conntrack import Conntrack, ConntrackError
from .._kernel.process import Runner
from .._model.service import Node, Service
from .._resource.connections.quiet import wait_until_quiet
from . import announce
from .change import Change, NodeError
from .settings import COMPLETE, END, Settings

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def without_held(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses that are the node's own: keepalived gives it others and takes them away again. Raises NodeError."""
    held = announce.held_by_keepalived()
    return tuple(one for one in addresses if one not in held)


class Announcing:
    """What a run announces: by the settings of its task, or, where it is about services alone, as the node was last asked to."""

    def __init__(self, module: AnsibleModule, runner: Runner) -> None:
        """Raises NodeError."""
        self.withdrawal: str | None = module.params["withdrawal"]
        self._module = module
        self._runner = runner
        self._record = announce.read_record()
        self._is_named = "announce" in module.params["parts"]
        self._is_concerned = bool({"announce", "proxy"} & set(module.params["parts"]))
        self._settings: Mapping[str, Any] = {}
        self._wanted: announce.Wanted | None = None

    def is_concerned(self, settings: Settings) -> bool:
        """Return whether services are to be compiled into what is announced. Raises InvalidAnnouncement and NodeError."""
        is_asked = self._is_named and not self.withdrawal
        self._settings = settings.values if is_asked else self._record.settings
        if self.withdrawal and not self._settings:
            raise NodeError(
                f"{settings.name} announces no addresses (service_proxy_announce): there is nothing to withdraw"
            )
        if not (self._is_concerned and self._settings and (settings.is_present or not is_asked)):
            return False
        return parse_announcement(self._settings) is not None

    def compile(self, services: Sequence[Service], node: Node) -> None:
        """Raises InvalidAnnouncement and NodeError."""
        self._wanted = announce.compile_announcement(self._settings, services, node, self._withdrawal(), self._runner)

    def _withdrawal(self) -> str:
        return self.withdrawal or announce.withdrawal_now()

    def changes(self, is_present: bool) -> list[Change]:
        """Return what is to be changed, in its order. Raises NodeError."""
        if not self._is_concerned or not (self._wanted or self._record.found):
            return []
        found = []
        if self.withdrawal or (self._is_named and not is_present):
            found.append(announce.withdrawal_change(self.withdrawal or END))
        return found + announce.plan_announcement(self._wanted, self._settings, self._record, self._runner)

    def told(self) -> dict[str, Any]:
        """Return what the result says, and warn."""
        if not self._is_named or not self._wanted:
            return {}
        for warning in announce.warnings(self._wanted):
            self._module.warn(warning)
        if not self.withdrawal and self._withdrawal() != END:
            self._module.warn(f"{self._wanted.plan.own.name} is drained: it announces nothing until undrain_node")
        return {"announced": [one.address for one in self._wanted.addresses]}


def watch_traffic(module: AnsibleModule, addresses: Sequence[str]) -> dict[str, Any]:
    """Return the traffic to announced addresses, once it is over or the time is. Not in the lock of runs: that may take minutes.

    Raises NodeError.
    """
    withdrawal, seconds = module.params["withdrawal"], module.params["drain_seconds"]
    try:
        traffic = wait_until_quiet(addresses, Conntrack(), 0 if withdrawal == END else seconds, withdrawal == COMPLETE)
    except ConntrackError as error:
        raise NodeError(str(error)) from error
    return dict(traffic._asdict())
