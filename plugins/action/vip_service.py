# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module `vip_service`: it knows by which name the inventory calls the node."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module with ``node.name``, where it is not given, set to the inventory's name of the host."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        node = arguments.get("node") or {}
        if isinstance(node, dict) and not node.get("name"):
            arguments["node"] = {**node, "name": variables["inventory_hostname"]}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=variables)
        return result
