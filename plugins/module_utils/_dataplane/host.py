# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host on which a run is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from .._kernel.conntrack import Conntrack
from .._kernel.process import ModuleRunner, Runner
from .interface import Facility, Host

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class LocalHost:
    """The host on which this runs, as `interface.Host` describes it."""

    def __init__(self, runner: Runner, check_mode: bool = False) -> None:
        self.check_mode, self.runner = check_mode, runner
        self.tracking = Conntrack()
        self._opened: dict[Callable[[Host], Any], Any] = {}

    def facility(self, opened: Callable[[Host], Facility]) -> Facility:
        """Return what ``opened(host)`` returns, made once."""
        if opened not in self._opened:
            self._opened[opened] = opened(self)
        found: Facility = self._opened[opened]
        return found


class ModuleHost(LocalHost):
    """The managed host, by the means of a module."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(ModuleRunner(module), module.check_mode)
