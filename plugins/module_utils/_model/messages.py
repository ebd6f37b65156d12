# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said to users: one line of bounded length for each thing that is wrong, whatever was given. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

_LONGEST_QUOTE = 80
_LONGEST_MESSAGE, _HEAD, _TAIL = 900, 600, 280
_MOST_MESSAGES = 50


def quoted(value: Any) -> str:
    """Return a value as JSON on one line of printable characters, cut where it is long; a date as YAML has it, in quotes."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = "a value that cannot be shown"  # a number of thousands of digits, a key that is a list, a circle
    text = printable(text)
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."


def printable(text: str) -> str:
    """Return a text on one line: whatever ends lines or has no shape, lone surrogates included, is escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def printable_lines(text: str) -> str:
    """Return a text whose lines are `printable`; a tab is a blank."""
    return text if text.isprintable() else "\n".join(printable(line.replace("\t", " ")) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a message on one line of bounded length: of a long one its beginning and its end, where it says what is allowed."""
    text = printable(text)
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def messages(problems: Sequence[str]) -> str:
    """Return what is wrong, one line each, as many as a person reads."""
    more = len(problems) - _MOST_MESSAGES
    shown = [one_line(text) for text in problems[:_MOST_MESSAGES]]
    return "\n".join(shown + ([f"and {more} more"] if more > 0 else []))


def unknown_keys(owner: str, raw: Mapping[Any, Any], known: Iterable[str]) -> list[str]:
    """Return one line for each key of a dict that is none of these."""
    allowed = list(known)
    return [
        f"{owner}: {quoted(key)} is not a known key (its value is {quoted(value)}): {did_you_mean(key, allowed)}"
        f"allowed are {', '.join(allowed)}"
        for key, value in raw.items()
        if key not in allowed
    ]


def did_you_mean(key: Any, known: Iterable[str]) -> str:
    """Return a hint at the key that is spelled most like this one; empty where none is."""
    found = get_close_matches(str(key)[:_LONGEST_QUOTE], list(known), 1)
    return f"did you mean {found[0]}? " if found else ""
