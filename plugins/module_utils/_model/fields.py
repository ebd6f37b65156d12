# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dict that a user wrote, checked key by key, with one line for each error.

AnsibleModule's own suboptions would say which value is wrong, but not in which of ten thousand services.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from .messages import quoted, unknown_keys

Parser = Callable[[Any], Any]
"""From a written value to a parsed one; raises Problem."""

MISSING = object()
_LONGEST_NUMBER = 20
"""Digits."""
BOOLEANS_TRUE = frozenset({"y", "yes", "on", "1", "true", "t", 1})
BOOLEANS_FALSE = frozenset({"n", "no", "off", "0", "false", "f", 0})
"""Ansible's own (``ansible.module_utils.parsing.convert_bool``), for a program on the node that has no Ansible."""


class Problem(ValueError):
    """A value is refused; the text says what is allowed. ``at`` is the place inside the value, such as ``[2]``."""

    def __init__(self, allowed: str, value: Any = MISSING, at: str = "") -> None:
        super().__init__(allowed)
        self.allowed, self.value, self.at = allowed, value, at


class Field(NamedTuple):
    """A key: how its value is parsed, and what it is when it is not given or null (MISSING: it must be given)."""

    parse: Parser
    default: Any = MISSING


class Fields(dict[str, Field]):
    """The keys of a dict. defaults: of all fields in their order, MISSING where one must be given."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        super().__init__(fields)
        self.parsers = {key: field.parse for key, field in fields.items()}
        self.defaults = {key: field.default for key, field in fields.items()}
        self.required = [key for key, field in fields.items() if field.default is MISSING]


def parsed(raw: Any, fields: Fields) -> dict[str, Any] | None:
    """The parsed values of all fields in their order; None where anything is wrong, which `parse_fields` tells, but takes longer."""
    if not isinstance(raw, (dict, Mapping)):
        return None
    values, parsers = fields.defaults.copy(), fields.parsers
    try:
        for key, value in raw.items():
            parse = parsers[key]
            if value is not None:
                values[key] = parse(value)
    except (Problem, KeyError):
        return None
    for key in fields.required:
        if values[key] is MISSING:
            return None
    return values


def parse_fields(owner: str, raw: Any, fields: Mapping[str, Field], problems: list[str]) -> dict[str, Any]:
    """The parsed values of all fields, those that are wrong left out and told in ``problems``."""
    if not isinstance(raw, Mapping):
        problems.append(f"{owner} is {quoted(raw)}: must be a dict with the keys {', '.join(fields)}")
        return {}
    problems += unknown_keys(owner, raw, fields)
    values: dict[str, Any] = {}
    for key, (parse, default) in fields.items():
        value = raw.get(key)
        if value is not None:
            try:
                values[key] = parse(value)
            except Problem as problem:
                problems.append(_wrong(owner, key, value, problem))
        elif default is MISSING:
            problems.append(f"{owner}: {key} is missing: must be {_allowed(fields[key])}")
        else:
            values[key] = default
    return values


def _wrong(owner: str, key: str, value: Any, problem: Problem) -> str:
    shown = value if problem.value is MISSING else problem.value
    return f"{owner}: {key}{problem.at} is {quoted(shown)}: must be {problem.allowed}"


def _allowed(field: Field) -> str:
    """What a field allows, asked by handing it something that no field allows."""
    try:
        field.parse(MISSING)
    except Problem as problem:
        return problem.allowed
    return "given"


_SEVERAL = re.compile(r"(?i)(all|any|both|\*)|\s*\w+(\s*[-,;:/+& ]\s*\w+)+\s*")
"""What people write for more than one: ``both``, ``80-90``, ``80,443``, ``tcp/udp``."""


def integer(low: int, high: int) -> Parser:
    """An integer, or a string of one as templates make them."""

    def parse(value: Any) -> int:
        if value.__class__ is int and low <= value <= high:
            return value
        if isinstance(value, str) and re.fullmatch(rf"\s*[0-9]{{1,{_LONGEST_NUMBER}}}\s*", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Problem(f"an integer from {low} to {high}")
        return int(value)

    return parse


def choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Problem(f"one of {', '.join(allowed)}")
        return value

    return parse


def one_each(parse_one: Parser, what: str) -> Parser:
    """One value; whoever gives several, in a list, a range or by a word for all, is told that a service has one."""

    def parse(value: Any) -> Any:
        try:
            return parse_one(value)
        except Problem as problem:
            is_several = isinstance(value, (list, tuple)) or (isinstance(value, str) and _SEVERAL.fullmatch(value))
            hint = f" (one service for each {what})" if is_several else ""
            raise Problem(problem.allowed + hint) from None

    return parse


def pattern(expression: str, allowed: str) -> Parser:
    compiled = re.compile(expression)

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise Problem(allowed)
        return value

    return parse


def boolean(value: Any) -> bool:
    """A boolean, or one of Ansible's words for one."""
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, (bool, int, str)) and word in BOOLEANS_TRUE:
        return True
    if isinstance(word, (bool, int, str)) and word in BOOLEANS_FALSE:
        return False
    raise Problem("true or false")


def one_of_type(*types: type) -> Parser:
    names: dict[Any, str] = {str: "a string", list: "a list", tuple: "", dict: "a dict"}

    def parse(value: Any) -> Any:
        if not isinstance(value, types) or value == "":
            raise Problem(" or ".join(names[kind] for kind in types if names[kind]))
        return value

    return parse


def listed(parse_item: Parser) -> Parser:
    """A list of distinct items; a bare string is a list of one."""

    def parse(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            try:
                return (parse_item(value),)
            except Problem as problem:
                raise Problem(problem.allowed, value, problem.at) from None
        if not isinstance(value, (list, tuple)):
            raise Problem(f"a list, each item {_allowed(Field(parse_item))}")
        parsed: list[Any] = []
        for index, item in enumerate(value):
            try:
                parsed.append(parse_item(item))
            except Problem as problem:
                raise Problem(problem.allowed, item, f"[{index}]{problem.at}") from None
            if parsed[-1] in parsed[:-1]:
                raise Problem("given once", item, f"[{index}]")
        return tuple(parsed)

    return parse
