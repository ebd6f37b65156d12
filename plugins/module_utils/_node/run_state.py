# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of a node is to do, what it has found, and what it has changed so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._dataplane import registry
from .._kernel.process import ModuleRunner
from .._model.service import Node, Service
from .announcing import Announcing
from .boot import Part, asked_of, observe
from .bridge_modes import Links
from .change import Change, NodeError
from .given import Drain, Given, drained_after, given_at, last_given, payload_of, read_drained
from .kernel_modules import Held
from .overlay import Planned
from .settings import Settings

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class RunState:
    """What all parts of a run share."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.runner = ModuleRunner(module)
        self.parts: Collection[str] = module.params["parts"]
        self.drain = Drain(module.params["drain"], module.params["undrain"], module.params["is_known"])
        self.announcing = Announcing(module, self.runner)
        self.kept = observe()
        self.boot_parts: dict[str, Part | None] = {}
        self.held_given = last_given(self.kept.asked)
        self.asked = Given(
            Settings(module.params).values, payload_of(module.params["services"], module.params["payload"])
        )
        self.listed = read_drained()
        self.given = self._given()
        self.settings = Settings(self.given.settings)
        self.services = self.given.services
        self.in_iptables = registry.presence(self.settings.dataplane).uses_iptables
        self.links = Links()
        self.missing: Sequence[str] = ()
        self.changes: list[Change] = []
        self.result: dict[str, Any] = {}
        self.parsed: Mapping[str, Service] = {}  # those of `services`, by name, where validation has parsed them
        # What validation finds, and the last two where the node's own part is among them.
        self.node: Node
        self.needs: dict[str, Any]
        self.overlay: Planned | None
        self.local: Sequence[str]
        self.modules: Mapping[str, str]
        self.kernel: Held

    def _given(self) -> Given:
        """What the node is to be: what the task says, unless that is about one backend, or about an earlier run."""
        number = self.module.params["generation"]
        if number is not None:
            given, self.listed = given_at(asked_of(number), number)
            return given
        if not self.drain.backend and not self.announcing.withdrawal:
            return self.asked
        if self.held_given is None:
            lost = self.kept.problems[0] if self.kept.problems else "this node was not given any services yet"
            raise NodeError(f"{lost}: run site.yml first")
        return self.held_given

    def has_bridges(self) -> bool:
        """Return whether bridged traffic is to pass the rules."""
        if self.settings.bridge_netfilter is not None:
            return bool(self.settings.bridge_netfilter)
        given = self.settings.given_bridges
        return bool(self.local if given is None else given)

    def do(self, *changes: Change) -> None:
        """Apply what differs, unless in check mode."""
        for change in changes:
            if change.changed:
                self.changes.append(change)
                if not self.module.check_mode:
                    change.apply()

    def drained(self) -> list[str]:
        """Return the backends that are drained behind the run."""
        if not self.settings.is_present:
            return []
        return list(dict.fromkeys([*self.settings.drained, *drained_after(self.listed, self.drain, True)]))
