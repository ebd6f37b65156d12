# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the iptables tools read and write, and the errors that they report. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_FAILED_LINE = re.compile(r"(?:Error occurred at line: |\bline )(\d+)")
_NOISE = re.compile(r"^(?:# Warning: |Try `|Error occurred at line: )")
_TABLE = re.compile(r"^\*(\w+)$", re.MULTILINE)
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
        super().__init__(f"{command}: {place}{message}")


def refusal(command: str, text: str, stderr: str) -> XtablesError:
    """The error for what ``iptables-restore`` said about a text, with the rule in the line that it names."""
    found = _FAILED_LINE.search(stderr)
    rule = rule_at(text, int(found.group(1))) if found else None
    return XtablesError(command, clean_message(stderr), rule)


def parse_save(text: str) -> dict[str, list[str]]:
    """Chains with their rules, from what ``iptables-save -t TABLE`` or ``iptables -S`` printed.

    A line that is none of theirs goes on with the rule before it: a comment may contain a line break.
    """
    chains: dict[str, list[str]] = {}
    rules: list[str] = []
    for line in text.splitlines():
        first, _dummy, rest = line.partition(" ")
        if first in ("-P", "-N") or first.startswith(":"):
            chains.setdefault((first[1:] if first.startswith(":") else rest).split(" ")[0], [])
        elif first == "-A":
            chain, _dummy, rule = rest.partition(" ")
            rules = chains.setdefault(chain, [])
            rules.append(rule)
        elif rules and line != "COMMIT" and not line.startswith("#"):
            rules[-1] += "\n" + line
    return chains


def by_table(text: str) -> dict[str, str]:
    """What ``iptables-save`` printed, by table."""
    parts = _TABLE.split(text)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def rule_at(text: str, number: int) -> Rule | None:
    """The rule in a line of a text for ``iptables-restore``, lines counted from 1; None where it holds no rule."""
    table, places, last = "", dict[str, int](), None
    for line in text.splitlines()[:number]:
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
    start, *declarations = head.splitlines()
    by_name = {line[1 : line.index(" ")]: line for line in declarations}
    at = first_rule = len(head) + 1
    command = _COMMAND.match(block, at)
    while command and command.group(1) not in by_name:
        first_rule = command.end()
        command = _COMMAND.match(block, first_rule)
    hooked = block[at:first_rule]
    first = sorted({by_name.pop(word) for word in hooked.split() if word in by_name})
    return "\n".join([start, *first, hooked + "-S", *by_name.values(), block[first_rule:]])
