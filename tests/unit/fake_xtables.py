# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""iptables without a kernel: the tools that `kernel.xtables` calls, over tables in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import BUILT_IN_CHAINS

Answer = tuple[int, str, str]


class FakeHost:
    """A `Runner`. tables: rules by table and chain. spellings: how the kernel spells a rule that is written otherwise.

    refused: message of iptables by rule. missing: tools that are not installed. namespaces: whether they can be
    made. calls: every command in order, with its input. sets: what ``ipset save -t`` says of each set.
    """

    def __init__(self, spellings: Mapping[str, str] | None = None) -> None:
        self.tables: dict[str, dict[str, list[str]]] = {
            table: {chain: [] for chain in chains} for table, chains in BUILT_IN_CHAINS.items()
        }
        self.spellings = dict(spellings or {})
        self.refused: dict[str, str] = {}
        self.missing: set[str] = set()
        self.namespaces = True
        self.sets: dict[str, str] = {}
        self.calls: list[tuple[list[str], str]] = []

    def find(self, tool: str) -> str | None:
        if tool in self.missing:
            return None
        return "/fake/xtables-nft-multi" if "tables" in tool else "/fake/" + tool

    def run(self, argv: Sequence[str], stdin: str = "") -> Answer:
        self.calls.append((list(argv), stdin))
        command = argv[0].rpartition("/")[2]
        if command == "xtables-nft-multi":
            return self._iptables(argv[1], list(argv[2:]), stdin)
        answers = {"unshare": self._unshare, "ipset": self._ipset, "nft": self._nft}
        return answers[command](list(argv), stdin)

    def _iptables(self, name: str, arguments: list[str], stdin: str) -> Answer:
        if name.endswith("-restore"):
            return self._restore(stdin, "--test" in arguments)
        table = self.tables[arguments[arguments.index("-t") + 1]]
        if name.endswith("-save"):
            return 0, save_text(arguments[arguments.index("-t") + 1], table), ""
        chain = arguments[arguments.index("-S") + 1] if arguments[-1] != "-S" else None
        if chain is not None and chain not in table:
            return 1, "", f"{name}: No chain/target/match by that name.\n"
        listed = table if chain is None else {chain: table[chain]}
        return (
            0,
            "".join(f"-N {one}\n" + "".join(f"-A {one} {rule}\n" for rule in rules) for one, rules in listed.items()),
            "",
        )

    def _restore(self, text: str, test: bool) -> Answer:
        tables = copy.deepcopy(self.tables)
        table: dict[str, list[str]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            command, _space, rest = line.partition(" ")
            chain, _space, rule = rest.partition(" ")
            if command in ("-A", "-I") and rule in self.refused:
                message = (
                    f"iptables-restore v1.8.9 (nf_tables): {self.refused[rule]}\nError occurred at line: {number}\n"
                )
                return 2, "", message + "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"
            if line.startswith("*"):
                table = tables[line[1:]]
            elif line.startswith(":"):
                table[command[1:]] = []
            elif command == "-A":
                table[chain].append(self.spellings.get(rule, rule))
            elif command == "-I":
                place, _space, rule = rule.partition(" ")
                table[chain].insert(int(place) - 1, self.spellings.get(rule, rule))
            elif command == "-D":
                table[chain].remove(rule)
            elif command == "-X":
                del table[chain]
        if not test:
            self.tables = tables
        return 0, "", ""

    def _unshare(self, _argv: list[str], stdin: str) -> Answer:
        if not self.namespaces:
            return 1, "", "unshare: unshare failed: Operation not permitted\n"
        scratch = FakeHost(self.spellings)
        scratch.refused = self.refused
        code, stdout, stderr = scratch._restore(stdin, test=False)
        table = stdin.splitlines()[0][1:]
        return (0, save_text(table, scratch.tables[table]), "") if code == 0 else (code, stdout, stderr)

    def _ipset(self, argv: list[str], _stdin: str) -> Answer:
        text = self.sets.get(argv[-1])
        return (0, text, "") if text else (1, "", "ipset v7.17: The set with the given name does not exist\n")

    def _nft(self, argv: list[str], _stdin: str) -> Answer:
        return (0, "", "") if argv[-1] in self.tables[argv[-2]] else (1, "", "Error: No such file or directory\n")


def save_text(table: str, chains: Mapping[str, Sequence[str]]) -> str:
    """What ``iptables-save -t TABLE`` prints."""
    lines = ["# Generated by iptables-save", "*" + table]
    lines += [f":{chain} {'ACCEPT' if chain in BUILT_IN_CHAINS[table] else '-'} [0:0]" for chain in chains]
    lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
    return "\n".join([*lines, "COMMIT", "# Completed", ""])
