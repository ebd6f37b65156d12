# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""iptables rule specifications as text: their words, and the quoting of ``iptables-restore`` and ``iptables-save``.

Pure. The grammar is that of ``iptables-restore`` (add_param_to_argv in iptables' xshared.c): words are divided by
blanks; a double quote opens a string that ends the word and in which a backslash takes the next character as
it is. On top of it a word may stand in single quotes, as people carry it over from a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BUILT_IN_CHAINS = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
}

_WORD = re.compile(
    r"""[ \t]* (?:
        '(?P<single>[^']*)'(?=[ \t]|\Z)
      | (?P<head>[^ \t"']?[^ \t"]*)"(?P<double>(?:[^"\\]|\\.)*)"
      | (?P<plain>[^ \t"'][^ \t"]*)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_ESCAPE = re.compile(r"([\"'\\])")
_SAFE = re.compile(r"[A-Za-z0-9_-]+")
_NEEDS_QUOTES = re.compile(r"[ \t\"'\\]|^\Z")

TARGET_OPTIONS = ("-j", "--jump", "-g", "--goto")
SET_OPTIONS = ("--match-set", "--set", "--add-set", "--del-set", "--map-set")


@dataclass(frozen=True)
class Word:
    """One argument of a rule; quoted: it stood in quotes, so it is a value, never an option."""

    text: str
    quoted: bool = False


def words(rule: str) -> list[Word]:
    """The words of a rule specification; ValueError for unbalanced quotes."""
    found, start, rule = [], 0, rule.strip(" \t\n")
    while start < len(rule):
        match = _WORD.match(rule, start)
        if match is None:
            raise ValueError("unbalanced quotes")
        found.append(_word(match))
        start = match.end()
    return found


def _word(match: re.Match[str]) -> Word:
    if match.group("double") is not None:
        return Word(match.group("head") + _ESCAPED.sub(r"\1", match.group("double")), quoted=True)
    if match.group("single") is not None:
        return Word(match.group("single"), quoted=True)
    return Word(match.group("plain"))


def quote(value: str) -> str:
    """A string value as ``iptables-save`` prints it (xtables_save_string)."""
    if _SAFE.fullmatch(value) and not value.startswith("-"):
        return value
    return '"' + _NEEDS_ESCAPE.sub(r"\\\1", value) + '"'


def render(rule: Sequence[Word]) -> str:
    """The rule as ``iptables-restore`` reads it: what stood in quotes or needs them is quoted as by `quote`."""
    return " ".join(quote(word.text) if word.quoted or _NEEDS_QUOTES.search(word.text) else word.text for word in rule)


def targets(rule: str) -> list[str]:
    """The targets that a rule names: one for a rule that iptables would accept, or none."""
    return list(_values(words(rule), TARGET_OPTIONS))


def ipsets(rule: str) -> list[str]:
    """The names of ipsets that a rule may refer to."""
    return [name for name in _values(words(rule), SET_OPTIONS) if not name.startswith("-")]


def _values(rule: Sequence[Word], options: Sequence[str]) -> Iterator[str]:
    for word, following in zip(rule, rule[1:]):
        if word.text in options and not word.quoted:
            yield following.text
    for word in rule:
        option, equals, value = word.text.partition("=")
        if equals and option in options:
            yield value
