# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module `service_proxy_node`: options from variables, validated and converted before they are sent."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.settings import (
    VRRP,
    InvalidAnnouncement,
    parse_announcement,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import find_errors
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.drain import find_endpoints
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.fields import Problem, integer, quoted
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.overlay import InvalidOverlay, parse_overlay
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import packed, to_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import shipped_code
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import (
    OTHER_VARIABLES,
    PREFIX,
    SPECIFICATION,
    Settings,
)
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._announce import (
    DifferentAnnouncements,
    announcing_nodes,
)
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._option_types import wrong_types
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._overlay import (
    DifferentOverlays,
    other_nodes,
    own_address,
)
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._pipelining import PipelinedAction
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._services_variable import plain_text, resolved

_NUMBERS = {"generation": integer(1, 10**9), "drain_seconds": integer(0, 10**6)}
_MEANING = {"generation": ", of those that layer4-service-proxy generations lists on the node"}
_ABOUT_THE_RUN = ("parts", "validate_only", "drain", "undrain", "generation", "withdrawal", "drain_seconds")

# Once, before Ansible forks a worker for each task and host.
_CODE = shipped_code.pack_code()
for _name in registry.IMPLEMENTED:
    registry.load(_name)


class ActionModule(PipelinedAction):
    """Runs the module with the options of the task and the variables with our prefix."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        gc.disable()  # hundreds of thousands of values that are no cycles: a quarter of the time otherwise
        try:
            return self._run(super().run(tmp, task_vars), task_vars or {})
        finally:
            gc.enable()

    def _run(self, result: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        given = dict(self._task.args)
        self._refuse_unknown_variables(variables)
        _check_about_the_run(given)
        services = self._services(given, variables)
        settings = self._settings(given, variables)
        if given.pop("validate_only", False):
            return {**result, "changed": False, **_problems(services, settings)}
        about_the_run = {key: given[key] for key in _ABOUT_THE_RUN if key in given}
        backend = given.get("drain") or given.get("undrain")
        arguments = {
            **about_the_run,
            **settings,
            "payload": packed(services)._asdict(),
            "code": _CODE,
            "is_known": bool(backend) and self._is_known(str(backend), services, variables),
        }
        result.update(self._execute_module(module_args=arguments, task_vars=variables))
        result.pop("invocation", None)  # thousands of services, which nobody reads
        return result

    def _refuse_unknown_variables(self, variables: Mapping[str, Any]) -> None:
        known = [PREFIX + name for name in (*SPECIFICATION, *OTHER_VARIABLES)]
        for name in sorted(variables):
            if name.startswith(PREFIX) and name not in known:
                nearest = get_close_matches(name, known, 1)
                hint = f"did you mean {nearest[0]}?" if nearest else "the collection has no such variable"
                raise AnsibleActionFail(f"{name} is set: {hint}")

    def _services(self, given: dict[str, Any], variables: dict[str, Any]) -> str:
        """The services as text of JSON; without having Ansible template them where there is nothing to template."""
        name = PREFIX + "services"
        value = given.pop("services", variables.get(name, []))
        value = resolved(value, variables)
        text = plain_text(value)
        if text is not None:
            return text
        value = self._templar.template(value)
        if not isinstance(value, list):
            kind = "a dict" if isinstance(value, Mapping) else quoted(value)
            raise AnsibleActionFail(f"{name} is {kind}: must be a list of dicts")
        try:
            return to_text(value)
        except (TypeError, ValueError) as error:
            unknown = f"{name} has a value that is neither text, number, list nor dict: {error}"
            raise AnsibleActionFail("\n".join(find_errors(value, {})) or unknown) from None

    def _settings(self, given: Mapping[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """All settings as they are meant: those of the task, and for others the variables."""
        found = {
            PREFIX + name: given[name] if name in given else self._templar.template(variables.get(PREFIX + name))
            for name in SPECIFICATION
        }
        found[PREFIX + "name"] = found[PREFIX + "name"] or variables["inventory_hostname"]
        found = {name: value for name, value in found.items() if value is not None}
        specification = {PREFIX + name: option for name, option in SPECIFICATION.items()}
        checked = ArgumentSpecValidator(specification).validate(found)
        problems = wrong_types(specification, found)
        if problems or checked.error_messages:
            raise AnsibleActionFail("\n".join(problems or checked.error_messages))
        settings = {name: checked.validated_parameters[PREFIX + name] for name in SPECIFICATION}
        return {**settings, **self._overlay(settings, variables), **self._announcement(settings, variables)}

    def _overlay(self, settings: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that the inventory's other hosts have a part in."""
        if not Settings(settings).has_overlay:
            return {}
        host = variables["inventory_hostname"]
        others = settings["overlay_nodes"]
        try:
            if others is None:
                others = other_nodes(settings, host, variables, PREFIX)
        except DifferentOverlays as error:
            raise AnsibleActionFail(str(error)) from None
        return {
            "overlay_address": own_address(settings["overlay_address"], host, variables),
            "overlay_nodes": others,
        }

    def _announcement(self, settings: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of VRRP that the inventory's other hosts have a part in."""
        if Settings(settings).announces_by != VRRP:
            return {}
        host = variables["inventory_hostname"]
        own = {"announce_address": own_address(settings["announce_address"], host, variables)}
        if settings["announce_nodes"] is not None:
            return own
        try:
            return {**own, "announce_nodes": announcing_nodes({**settings, **own}, host, variables, PREFIX)}
        except DifferentAnnouncements as error:
            raise AnsibleActionFail(str(error)) from None

    def _is_known(self, backend: str, services: str, variables: dict[str, Any]) -> bool:
        """Whether any node of the inventory has a service with this backend."""
        try:
            if find_endpoints(json.loads(services), [backend]):
                return True
            hosts = variables["groups"].get(variables.get(PREFIX + "group") or "service_proxy", [])
            return any(find_endpoints(self._services_of(host, variables), [backend]) for host in hosts)
        except InvalidServices:
            return False

    def _services_of(self, host: str, variables: dict[str, Any]) -> Any:
        return variables["hostvars"][host].get(PREFIX + "services", [])


def _check_about_the_run(given: dict[str, Any]) -> None:
    """Refuse an empty name of a backend, without which the run would be about all services, and convert numbers.

    Raises AnsibleActionFail.
    """
    for key in ("drain", "undrain"):
        value = given.get(key, "given")
        if isinstance(value, (list, Mapping)) or value in (None, ""):
            allowed = "must be the address of a backend, its address and port, or the node of backends"
            raise AnsibleActionFail(f"{PREFIX}backend is {quoted(value)}: {allowed}")
    for key, parse in _NUMBERS.items():
        if key in given:
            try:
                given[key] = parse(given[key])
            except Problem as problem:
                raise AnsibleActionFail(
                    f"{PREFIX}{key} is {quoted(given[key])}: must be {problem.allowed}{_MEANING.get(key, '')}"
                ) from None


def _problems(services: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong, as the result of a task."""
    if settings["state"] == "absent":
        return {}
    options = {"node": Settings(settings).node, "dataplane": settings["dataplane"]}
    try:
        if Settings(settings).has_overlay:
            parse_overlay(settings)
        parse_announcement(settings)
        problems = [*Settings(settings).problems(), *find_errors(json.loads(services), options)]
    except (InvalidAnnouncement, InvalidOverlay, InvalidServices) as error:
        problems = error.problems
    return {"failed": True, "msg": "\n".join(problems), "problems": problems} if problems else {}
