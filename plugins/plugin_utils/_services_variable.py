# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services in a variable, without having Ansible template them where there is nothing to template: that takes seconds for thousands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import to_text

_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_TEMPLATE = re.compile(r"\{[{%#]")
_LONGEST_CHAIN = 10


def resolved(value: Any, variables: Mapping[str, Any]) -> Any:
    """What a value stands for that is nothing but a variable's name in braces, as it is written, else the value."""
    for _step in range(_LONGEST_CHAIN):
        found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
        if found is None or found.group(1) not in variables:
            break
        value = variables[found.group(1)]
    return value


def plain_text(services: Any) -> str | None:
    """A list of services as text of JSON; None for what has a template in it or is not made of what JSON knows."""
    if not isinstance(services, list):
        return None
    try:
        text = to_text(services)
    except TypeError:
        return None
    return None if _TEMPLATE.search(text) else text
