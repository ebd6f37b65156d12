# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the iptables tools read and write, and the errors that they report. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from .._model.messages import one_line

_FAILED_LINE = re.compile(r"(?:Error occurred at line: |\bline )(\d+)")
_NOISE = re.compile(r"^(?:# Warning: |Try `|Error occurred at line: )")
_QUOTED = re.compile(r'( --[\w-]+ )"(?:[^"\\]|\\.)*"(?![^ \n])', re.DOTALL)
"""A string and the option before it; quotes elsewhere, as in the name of an interface, are characters like others."""
_LOGICAL_LINE = re.compile(r'[^\n ]*(?:(?: --[\w-]+ "(?:[^"\\]|\\.)*"(?![^ \n])| (?!--[\w-]+ "))[^\n ]*)*', re.DOTALL)
_INCOMPATIBLE = re.compile(r"# Table `(?:filter|nat|mangle|raw)' is incompatible")
_SAVE = "iptables-save"
_SHOWN = 60
"""Characters of what is not understood that an error shows."""
_END = "\nCOMMIT\n"
_COMMAND = re.compile(r"-\S+ (\S+).*\n")
_MANY_CHAINS = 4000
_TOOL = re.compile(r"^ip6?tables[\w-]*(?: v[\d.]+ \(\w+\))?: ?")


class Rule(NamedTuple):
    """A rule in a text: its table, its chain, its place there counted from 1 (None: it is inserted or deleted)."""

    table: str
    chain: str
    number: int | None
    text: str


class XtablesError(Exception):
    """A tool refused its work. message: its own words on one line; rule: what it refused, where that is known."""

    def __init__(self, command: str, message: str, rule: Rule | None = None) -> None:
        self.command, self.message, self.rule = command, message, rule
        place = ""
        if rule:
            number = "" if rule.number is None else f" {rule.number}"
            place = f"table {rule.table}, chain {rule.chain}, rule{number} ({rule.text}): "
        super().__init__(one_line(f"{command}: {place}{message}"))


def refusal(command: str, text: str, stderr: str) -> XtablesError:
    """The error for what ``iptables-restore`` said about a text, with the rule in the line that it names."""
    found = _FAILED_LINE.search(stderr)
    rule = rule_at(text, int(found.group(1))) if found else None
    return XtablesError(command, clean_message(stderr), rule)


def logical_lines(text: str) -> list[str]:
    """The lines of what ``iptables-save`` or ``iptables -S`` printed, without the line feeds that end them.

    One in quotes ends no line: a comment may have any character but NUL, and is printed as it is, only quotes and backslashes
    with a backslash before them (``xtables_save_string``). Raises XtablesError for a string that does not end.
    """
    lines = text.split("\n")
    if all(map(_is_plain, lines)):
        return lines
    found, start = [], 0
    while start <= len(text):
        match = _LOGICAL_LINE.match(text, start)
        end = match.end() if match else start
        if end < len(text) and text[end] != "\n":
            raise XtablesError(_SAVE, f"printed a string that does not end: {text[end : end + _SHOWN]!r}")
        found.append(text[start:end])
        start = end + 1
    return found


def _is_plain(line: str) -> bool:
    """Whether a line has no quotes, or only a string of the simplest kind: true for nearly all."""
    count = line.count('"')
    if not count:
        return True
    if count != 2 or "\\" in line:
        return False
    first, second = line.index('"'), line.rindex('"')
    return line[first - 1] == " " and line[second + 1 : second + 2] in (" ", "")


def unquoted(rule: str) -> str:
    """A rule with nothing in its quoted strings."""
    return _QUOTED.sub(r'\1""', rule) if '"' in rule else rule


def parse_save(text: str) -> dict[str, list[str]]:
    """Chains with their rules, from what ``iptables-save -t TABLE`` or ``iptables -S`` printed. Raises XtablesError."""
    return {chain: rules for (dummy, chain), rules in parse_tables(text).items()}


def parse_tables(text: str) -> dict[tuple[str, str], list[str]]:
    """Rules by table and chain, from what ``iptables-save`` printed.

    Raises XtablesError for what it does not print, and for a table that iptables-nft cannot read, which it leaves out with a remark.
    """
    chains: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in logical_lines(text):
        first, dummy, rest = line.partition(" ")
        if first == "-A":
            chain, dummy, rule = rest.partition(" ")
            chains.setdefault((table, chain), []).append(rule)
        elif first.startswith(":"):
            chains.setdefault((table, first[1:]), [])
        elif first in ("-P", "-N"):
            chains.setdefault((table, rest.partition(" ")[0]), [])
        elif first.startswith("*"):
            table = first[1:]
        elif _INCOMPATIBLE.match(line):
            raise XtablesError(_SAVE, line[2:] + " It holds what nft(8) or another program wrote: remove that")
        elif first not in ("", "COMMIT") and not first.startswith("#"):
            raise XtablesError(_SAVE, f"printed what is no rule: {line[:_SHOWN]!r}")
    return chains


def rule_at(text: str, number: int) -> Rule | None:
    """The rule in a line of a text for ``iptables-restore``, lines counted from 1; None where it holds no rule."""
    table, places, last = "", dict[str, int](), None
    for line in text.split("\n")[:number]:
        if line.startswith("*"):
            table, places = line[1:], {}
        command, _dummy, rest = line.partition(" ")
        chain, _dummy, rule = rest.partition(" ")
        if command == "-A":
            places[chain] = places.get(chain, 0) + 1
        last = None
        if command in ("-A", "-I", "-D"):
            last = Rule(table, chain, places[chain] if command == "-A" else None, rule)
    return last


def clean_message(stderr: str) -> str:
    """The tool's own words on one line, without its name, its version and its advice to ask for help."""
    lines = (_TOOL.sub("", line.strip()) for line in stderr.splitlines() if not _NOISE.match(line))
    return " ".join(line for line in lines if line) or "failed without a message"


def for_nft(text: str) -> str:
    """A restore text so arranged that iptables-nft takes it in linear time, whatever the number of chains.

    It searches a list of all chains named so far for each line (1.8.9, ``nft_cache_level_set``), unless a command before
    was about all chains of the table, as ``-S`` is. That command has to come behind those for built-in chains: in a
    table that is new, what it prints makes them known without making them. So those stand in front of all other commands.
    """
    return _END.join(map(_block_for_nft, text.split(_END)))


def _block_for_nft(block: str) -> str:
    if block.count("\n:") < _MANY_CHAINS:
        return block
    head, _dummy, commands = block.partition("\n-")
    if not commands:
        return block
    start, *declarations = head.split("\n")
    by_name = {line[1 : line.index(" ")]: line for line in declarations}
    at = first_rule = len(head) + 1
    command = _COMMAND.match(block, at)
    while command and command.group(1) not in by_name:
        first_rule = command.end()
        command = _COMMAND.match(block, first_rule)
    hooked = block[at:first_rule]
    first = sorted({by_name.pop(word) for word in hooked.split() if word in by_name})
    return "\n".join([start, *first, hooked + "-S", *by_name.values(), block[first_rule:]])
