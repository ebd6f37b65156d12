# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module `vip_service`: it knows by which name the inventory calls the node, and brings long
lists of services there as one text, and only where they are not there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.state_file import was_asked_for
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import Payload, pack, packed
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._services_variable import plain_text, resolved

_LONG = 200
"""Services; below that their text saves nothing."""


class ActionModule(ActionBase):
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
        if isinstance(arguments.get("services"), Payload):
            return self._send(arguments, variables)
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=variables)
        return result

    def _send(self, arguments: Mapping[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """The digest alone to a node that was given the same before, and the services themselves where that is not enough.

        A module takes the node far longer to start than a shell does.
        """
        payload: Payload = arguments["services"]
        rest = {key: value for key, value in arguments.items() if key != "services"}
        to_send = [payload._asdict()]
        if self._low_level_execute_command(was_asked_for(payload.digest))["rc"] == 0:
            to_send.insert(0, {"digest": payload.digest})
        for sent in to_send:
            result: dict[str, Any] = self._execute_module(module_args={**rest, "payload": sent}, task_vars=variables)
            if not result.pop("services_needed", False):
                break
        return result


def _is_long(services: Any) -> bool:
    return isinstance(services, list) and len(services) >= _LONG
