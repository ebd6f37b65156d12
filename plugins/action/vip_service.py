# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module `vip_service`: it knows by which name the inventory calls the node, and sends long lists of
services as one text.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import Payload, pack, packed
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._pipelining import PipelinedAction
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._services_variable import plain_text, resolved

_LONG = 200
"""Services; below that their text saves nothing."""


class ActionModule(PipelinedAction):
    """Runs the module with ``node.name``, where it is not given, set to the inventory's name of the host."""

    _requires_connection = True

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """A long list of services becomes a `Payload`: of a list, Ansible would look into every value again.

        Where there is no template in it, it is taken as it is.
        """
        if name != "services":
            return super().finalize_task_arg(name, value, templar, context)
        untemplated = resolved(value, templar.available_variables)
        text = plain_text(untemplated) if _is_long(untemplated) else None
        if text is not None:
            return packed(text)
        services = super().finalize_task_arg(name, value, templar, context)
        try:
            return pack(services) if _is_long(services) else services
        except TypeError:
            return services

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        node = arguments.get("node") or {}
        if isinstance(node, dict) and not node.get("name"):
            arguments["node"] = {**node, "name": variables["inventory_hostname"]}
        services = arguments.get("services")
        if isinstance(services, Payload):
            del arguments["services"]
            arguments["payload"] = services._asdict()
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=variables)
        return result


def _is_long(services: Any) -> bool:
    return isinstance(services, list) and len(services) >= _LONG
