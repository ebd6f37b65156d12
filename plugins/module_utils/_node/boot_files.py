# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files from which a node is restored at boot, each for one facility (and family) in the tool's own format. Pure.

A file is named ``PART.FACILITY``; a part is what one of the roles has set. Jumps into chains of others are no text for a
tool, because whether one is missing depends on what these chains hold at the time: they are data for `_plan.iptables`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from types import MappingProxyType
from typing import Any

from .._model import addresses as ip
from .._objects.boot import UNCHANGED_TIMEOUTS, BootState
from .._objects.iptables import COMMANDS, ChainKey, Desired, Jump, Observed, Rules, target_of
from .._objects.ipvs import Timeouts
from .._plan.iptables import plan

PARTS = ("bridge", "backend", "overlay", "services")
"""In the order in which they are restored."""

SETS, IPVS, TIMEOUTS, ADDRESSES, SYSCTLS = "ipset", "ipvsadm", "ipvs-timeouts", "addresses", "sysctls"
OVERLAY = "overlay"
JUMPS = ".jumps"
NFT = {family: f"nft-{family}" for family in ip.FAMILIES}
OFFLOAD = {family: f"nft-offload-{family}" for family in ip.FAMILIES}
"""The flow tables of the same tables, with what leads to them: their devices may come late."""
FACILITIES = (
    SETS,
    *(COMMANDS[family] + kind for family in ip.FAMILIES for kind in ("", JUMPS)),
    *NFT.values(),
    IPVS,
    TIMEOUTS,
    ADDRESSES,
    SYSCTLS,
    OVERLAY,
    *OFFLOAD.values(),
)
AFTER_NETWORK = (OVERLAY, *OFFLOAD.values())
"""What is restored when the network is there."""
_DECLARED = " - [0:0]"
_SYSCTL = re.compile(r"net/[a-z0-9_/]+")


class InvalidFileError(ValueError):
    """A file is not what this module writes; the text is one line without the file's name."""


def render(state: BootState) -> dict[str, bytes]:
    """Return the content of each file by its facility; none for what there is nothing of."""
    files = {SETS: state.sets}
    for family, desired in state.rules.items():
        files[COMMANDS[family]] = _rules(desired)
        files[COMMANDS[family] + JUMPS] = _jumps(desired.jumps)
    files[IPVS] = _lines(state.ipvs)
    files[TIMEOUTS] = _lines([" ".join(map(str, state.ipvs_timeouts))] if any(state.ipvs_timeouts) else [])
    files[ADDRESSES] = _lines(sorted(state.addresses, key=ip.sort_key))
    files[SYSCTLS] = _lines(f"{name} = {value}" for name, value in sorted(state.sysctls.items()))
    encoded = {facility: text.encode("utf-8", "surrogateescape") for facility, text in files.items() if text}
    if state.nftables:
        from .boot_nftables import encode  # pylint: disable=import-outside-toplevel  # long, and of no use to others

        for family, table in state.nftables.items():
            encoded[NFT[family]], offload = encode(table)
            encoded.update({OFFLOAD[family]: offload} if offload else {})
    if state.overlay:
        from .boot_overlay import encode as encode_overlay  # pylint: disable=import-outside-toplevel

        encoded[OVERLAY] = encode_overlay(state.overlay)
    return encoded


def _rules(desired: Desired) -> str:
    """As ``iptables-restore --noflush`` takes them: it empties a chain that it finds declared. Sorted, which is fast."""
    tables: dict[str, list[tuple[str, Rules]]] = {}
    for (table, name), rules in sorted(desired.chains.items()):
        tables.setdefault(table, []).append((name, rules))
    return _lines(line for table, chains in tables.items() for line in _table(table, chains))


def _table(table: str, chains: Sequence[tuple[str, Rules]]) -> list[str]:
    return [
        f"*{table}",
        *(f":{name}{_DECLARED}" for name, dummy in chains),
        *(f"-A {name} {rule}" for name, rules in chains for rule in rules),
        "COMMIT",
    ]


def parse_rules(text: str) -> dict[ChainKey, Rules]:
    """Return the chains of a file of rules as `render` writes it."""
    chains: dict[ChainKey, list[str]] = {}
    table = ""
    for line in text.split("\n"):
        if line.startswith("-A "):
            name, dummy, rule = line[3:].partition(" ")
            chains[table, name].append(rule)
        elif line.startswith(":"):
            chains[table, line[1:].partition(" ")[0]] = []
        elif line.startswith("*"):
            table = line[1:]
    return dict(chains)


def _jumps(jumps: Iterable[Jump]) -> str:
    """One a line, as a list of JSON: the fields of `Jump` in their order."""
    return _lines(json.dumps(astuple(one)) for one in jumps)


def _lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


def parse_jumps(text: str) -> list[Jump]:
    """Return the jumps of a file. Raises InvalidFileError."""
    try:
        found = [_jump(*json.loads(line)) for line in text.split("\n") if line]
    except (ValueError, TypeError) as error:
        raise InvalidFileError("it is no list of jumps") from error
    if not all(map(_is_jump, found)):
        raise InvalidFileError("it is no list of jumps")
    return found


def _jump(table: str, hook: str, rule: str, position: str, anchored: bool, overtakes: bool, behind: Any = ()) -> Jump:
    return Jump(table, hook, rule, position, anchored, overtakes, tuple(behind))


def _is_jump(one: Jump) -> bool:
    texts, answers = [*astuple(one)[:4], *one.behind], astuple(one)[4:6]
    return all(isinstance(text, str) for text in texts) and all(isinstance(answer, bool) for answer in answers)


def parse_timeouts(text: str) -> Timeouts:
    """Return the timeouts of a file. Raises InvalidFileError."""
    try:
        tcp, tcpfin, udp = map(int, text.split())
    except ValueError as error:
        raise InvalidFileError("it does not hold three numbers") from error
    return Timeouts(tcp, tcpfin, udp) if text else UNCHANGED_TIMEOUTS


def parse_sysctls(text: str) -> dict[str, int]:
    """Return the settings of a file by their names with slashes. Raises InvalidFileError."""
    try:
        found = {name: int(value) for name, dummy, value in map(str.split, filter(None, text.split("\n")))}
    except ValueError as error:
        raise InvalidFileError("it is no list of sysctls") from error
    if not all(map(_SYSCTL.fullmatch, found)):
        raise InvalidFileError("it names what is no sysctl of networks")
    return found


def jump_edits(
    jumps: Sequence[Jump], hooks: Mapping[ChainKey, Rules], others: Mapping[ChainKey, Rules] = MappingProxyType({})
) -> dict[str, str]:
    """Return what brings the jumps where they belong: by table the commands, each on a line of its own.

    hooks: the rules of all chains that the jumps are in; others: of the chains that these lead to. A jump to one of the same
    chains that is none of these goes.
    """
    targets: dict[ChainKey, Rules] = {(jump.table, target_of(jump.rule) or ""): () for jump in jumps}
    found = plan(Desired(dict(targets), list(jumps)), Observed(dict(targets), dict(hooks), dict(others))).restore
    return {table: body for table, body in map(_without_frame, found.split("COMMIT\n")) if table}


def _without_frame(block: str) -> tuple[str, str]:
    table, dummy, body = block.lstrip("\n").partition("\n")
    return table[1:], body


def with_jumps(rules: str, edits: Mapping[str, str]) -> str:
    """Return a file's rules with the commands of `jump_edits` behind the declarations, so that all is one transaction a table."""
    blocks = []
    for block in rules.split("\nCOMMIT\n"):
        table = block.partition("\n")[0][1:]
        declarations, separator, rest = block.partition("\n-")
        edit = edits.get(table, "").rstrip("\n")
        blocks.append("\n".join(filter(None, [declarations, edit])) + separator + rest)
    return "\nCOMMIT\n".join(blocks)
