# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Entries of an ipset as users write them, a string or a dict, checked against the set that they are for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._model.fields import Field, Problem, boolean, integer, parse_fields, quoted
from ..._objects.ipset import MAX_COMMENT, MAX_TIMEOUT, SET_TYPES, Entries, Entry, InvalidSetError, SetHeader
from .elements import element_parser

_MAX_COUNTER = (1 << 63) - 1
_WORDS = re.compile(r'"[^"]*"|\S+')
_WRITTEN = re.compile(r'(?:[^\s"]+|"[^"]*")(?:\s+(?:[^\s"]+|"[^"]*"))*')


def _comment(value: Any) -> str:
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if (
        not isinstance(text, str)
        or '"' in text
        or not text.isprintable()
        or len(text.encode(errors="replace")) > MAX_COMMENT
    ):
        raise Problem(f"a string of at most {MAX_COMMENT} bytes, printable and without double quotes")
    return text


def _element(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text or len(text.split()) != 1:
        raise Problem("an element, one word without options")
    return text.strip()


FIELDS: dict[str, Field] = {
    "entry": Field(_element),
    "timeout": Field(integer(0, MAX_TIMEOUT), None),
    "comment": Field(_comment, None),
    "packets": Field(integer(0, _MAX_COUNTER), None),
    "bytes": Field(integer(0, _MAX_COUNTER), None),
    "nomatch": Field(boolean, False),
}


def parse_entries(header: SetHeader, raw_entries: Sequence[Any]) -> Entries:
    """The entries by element, in their order. Raises InvalidSetError."""
    parse_element = element_parser(header)
    found: Entries = {}
    problems: list[str] = []
    for index, raw in enumerate(raw_entries):
        owner = f'set "{header.name}": entries[{index}]'
        try:
            values = _values(owner, raw, problems)
            if values is None:
                continue
            _refuse_unfit(header, values)
            for element in parse_element(values["entry"]):
                _collect(found, Entry(element, **{key: values[key] for key in FIELDS if key != "entry"}))
        except Problem as problem:
            problems.append(_told(owner, raw, problem))
    if problems:
        raise InvalidSetError(problems)
    return found


def _told(owner: str, raw: Any, problem: Problem) -> str:
    part = problem.value if isinstance(problem.value, str) and problem.value != raw else None
    subject = "" if part is None else f"{quoted(part)} "
    return f"{owner} is {quoted(raw)}: {subject}must be {problem.allowed}"


def _values(owner: str, raw: Any, problems: list[str]) -> Mapping[str, Any] | None:
    """The values of one entry by key; None when it is wrong, which is then told."""
    if isinstance(raw, str):
        raw = _split(raw)
    elif isinstance(raw, int) and not isinstance(raw, bool):
        raw = {"entry": str(raw)}
    elif not isinstance(raw, Mapping):
        raise Problem(f"a string as ipset add takes it, or a dict with the keys {', '.join(FIELDS)}")
    if len(raw) == 1 and str(raw.get("entry")).split() == [raw.get("entry")]:
        return dict(_UNSET, entry=raw["entry"])
    before = len(problems)
    values = parse_fields(owner, raw, FIELDS, problems)
    return values if len(problems) == before else None


_UNSET = {key: field.default for key, field in FIELDS.items() if key != "entry"}


def _split(text: str) -> dict[str, Any]:
    """The keys of an entry that is written as for ``ipset add``."""
    if text and not any(character.isspace() for character in text):
        return {"entry": text}
    if not _WRITTEN.fullmatch(text.strip()):
        raise Problem("an element, and options of which words with blanks stand in double quotes")
    words = _WORDS.findall(text)
    values: dict[str, Any] = {"entry": words.pop(0)}
    while words:
        option = words.pop(0)
        if option == "nomatch":
            value: Any = True
        elif option in FIELDS and option != "entry" and words:
            value = words.pop(0).strip('"')
        else:
            raise Problem("an element with options, of timeout N, comment WORDS, packets N, bytes N and nomatch")
        if option in values:
            raise Problem("an element with every option given once")
        values[option] = value
    return values


def _refuse_unfit(header: SetHeader, values: Mapping[str, Any]) -> None:
    """What is kept beside an element must be something that the set has room for."""
    for key, has, option in (
        ("timeout", header.timeout is not None, "timeout: 0"),
        ("comment", header.comment, "comment: true"),
        ("packets", header.counters, "counters: true"),
        ("bytes", header.counters, "counters: true"),
    ):
        if values[key] not in (None, "") and not has:
            raise Problem(f"without {key}, or the set needs {option}")
    if values["nomatch"] and "net" not in SET_TYPES[header.type].parts:
        raise Problem("without nomatch, which is for types of set with net")


def _collect(found: Entries, entry: Entry) -> None:
    other = found.setdefault(entry.element, entry)
    if other != entry:
        raise Problem(f"given once, or the same each time: an entry before it gives {entry.element} other options")
