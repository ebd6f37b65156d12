# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the filters on services have in common."""

from __future__ import annotations

from functools import wraps
from typing import Any, Callable, TypeVar

from ansible.errors import AnsibleFilterError

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices

Result = TypeVar("Result")


def refusing_services(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function as a filter: AnsibleFilterError, with the same text, where it raises InvalidServices.

    So for options that are given by their places where the function takes them by their names.
    """
    code = function.__code__

    @wraps(function)
    def refusing(*arguments: Any, **options: Any) -> Result:
        if len(arguments) > code.co_argcount:
            raise AnsibleFilterError(
                f"{function.__name__}: options must be given by name, such as node={{'name': 'node1'}}"
            )
        try:
            return function(*arguments, **options)
        except InvalidServices as error:
            raise AnsibleFilterError(str(error)) from None

    return refusing
