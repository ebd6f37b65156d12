# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that do not have the type of their option, with one line for each: Ansible's own lines are several, and do not show the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.messages import quoted, unknown_keys

_ALLOWED = {"str": "a string", "int": "an integer", "bool": "true or false", "list": "a list", "dict": "a dict"}
_UNFIT: dict[str, tuple[type, ...]] = {"int": (bool,), "str": (dict, list, tuple)}


def wrong_types(specification: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> list[str]:
    """Return one line for each value that its option does not take, with what is allowed.

    specification: as of AnsibleModule. values: by option, those that are not given left out.
    """
    return [line for name, value in values.items() for line in _wrong(name, value, specification[name])]


def _wrong(name: str, value: Any, option: Mapping[str, Any]) -> list[str]:
    """What is wrong with the value of an option: of a list its items, of a dict its keys, where it is one."""
    if _fits(value, option):
        return []
    found: list[str] = []
    if option["type"] == "list" and isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            found += _wrong(f"{name}[{index}]", one, _item(option))
    elif "options" in option and isinstance(value, Mapping):
        found = _wrong_keys(name, value, option["options"])
    return found or [f"{name} is {quoted(value)}: must be {_allowed(option)}"]


def _wrong_keys(name: str, value: Mapping[Any, Any], keys: Mapping[str, Any]) -> list[str]:
    return unknown_keys(name, value, keys) + [
        line for key, one in value.items() if key in keys for line in _wrong(f"{name}: {key}", one, keys[key])
    ]


def _item(option: Mapping[str, Any]) -> dict[str, Any]:
    """The option of an item of a list."""
    return {key: value for key, value in option.items() if key == "options"} | {"type": option["elements"]}


def _fits(value: Any, option: Mapping[str, Any]) -> bool:
    """Whether it is of the type; of a list as text, and of true as 1, Ansible would say so, too."""
    if isinstance(value, _UNFIT.get(option["type"], ())):
        return False
    return not ArgumentSpecValidator({"value": dict(option)}).validate({"value": value}).error_messages


def _allowed(option: Mapping[str, Any]) -> str:
    if "choices" in option:
        return f"one of {', '.join(option['choices'])}"
    if option["type"] == "list":
        return f"a list, each item {_allowed(_item(option))}"
    if "options" in option:
        keys = [key + " (required)" * bool(one.get("required")) for key, one in option["options"].items()]
        return f"a dict with the keys {', '.join(keys)}"
    return _ALLOWED[option["type"]]
