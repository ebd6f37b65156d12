# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the backends of a service are checked, from what users write to values that can be trusted. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .fields import Field, Fields, Problem, choice, integer, listed, parsed, pattern

TYPES = ("tcp", "http", "https")


class HealthCheck(NamedTuple):
    """A check and what follows from it. port: None is the backend's. interval and timeout: seconds. status: inclusive ranges."""

    type: str
    port: int | None
    path: str
    status: tuple[tuple[int, int], ...]
    interval: int
    timeout: int
    rise: int
    fall: int
    panic_threshold: int | None
    """Percent of backends that must be exceeded by the healthy ones for checks to count; None: they always count."""


_STATUS = "a status from 100 to 599, or a range of them such as 200-399"


def _status(value: Any) -> tuple[int, int]:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    found = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", text, re.ASCII)
    if not found:
        raise Problem(_STATUS)
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise Problem(_STATUS)
    return low, high


def _statuses(value: Any) -> tuple[tuple[int, int], ...]:
    """At least one; a bare number is a list of one."""
    found = listed(_status)([value] if isinstance(value, int) else value)
    if not found:
        raise Problem(f"a list with at least one item, each {_STATUS}")
    return tuple(sorted(found))


_SECONDS = integer(1, 3600)
_TIMES = integer(1, 100)
_FIELDS = Fields(
    {
        "type": Field(choice(*TYPES), "tcp"),
        "port": Field(integer(1, 65535), None),
        "path": Field(pattern(r"/[!-~]{0,1023}", "a path of printable ASCII that begins with / and has no space"), "/"),
        "status": Field(_statuses, ((200, 399),)),
        "interval": Field(_SECONDS, 5),
        "timeout": Field(_SECONDS, 2),
        "rise": Field(_TIMES, 2),
        "fall": Field(_TIMES, 3),
        "panic_threshold": Field(integer(0, 100), 0),
    }
)


def health_check(value: Any) -> HealthCheck:
    """Raises Problem with the first error."""
    if not isinstance(value, Mapping):
        raise Problem(f"a dict with the keys {', '.join(_FIELDS)}")
    values = parsed(value, _FIELDS)
    if values is None:
        raise _problem(value)
    if "panic_threshold" in value and value["panic_threshold"] is None:
        values["panic_threshold"] = None  # null is a value of its own here, not the default
    return HealthCheck(**values)


def _problem(raw: Mapping[Any, Any]) -> Problem:
    for key, value in raw.items():
        if key not in _FIELDS:
            return Problem(f"left out: allowed are {', '.join(_FIELDS)}", value, f".{key}")
        try:
            if value is not None:
                _FIELDS[key].parse(value)
        except Problem as problem:
            shown = problem.value if problem.at else value
            return Problem(problem.allowed, shown, f".{key}{problem.at}")
    raise AssertionError(raw)  # `parsed` refuses nothing else
