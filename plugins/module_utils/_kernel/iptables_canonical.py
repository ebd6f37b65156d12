# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules as the kernel spells them, learned in a network namespace that lives for one command.

Nothing of the host's rules is touched, so this is what check mode does too. The namespace holds the rules that are
wanted, and empty stand-ins for the chains and ipsets of the host that they refer to, but not for those
that the host does not have: a rule that the host would refuse is refused here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from .._objects.iptables_text import XtablesError, parse_save, refusal, rule_at
from .._objects.iptables_words import BUILT_IN_CHAINS, ipsets, targets
from .iptables import Xtables

Chains = Mapping[str, Sequence[str]]

VERDICTS = ("ACCEPT", "DROP", "QUEUE", "RETURN")
_HASH_SIZE = re.compile(r" (?:hashsize|initval) \S+")
_COMMIT_REFUSED = re.compile(r"restore: line \d+ failed")
_SCRIPT = """
if [ $# -gt 0 ]; then printf '%s\\n' "$@" | {ipset} restore || exit; fi
{restore} || exit
exec {save}
"""


class NoScratchError(XtablesError):
    """This host lets us make no network namespace."""


def settle(xtables: Xtables, table: str, chains: Chains, coming: Collection[str] = ()) -> dict[str, list[str]]:
    """The rules of each chain as ``iptables-save`` spells them; a rule with several addresses becomes several rules.

    coming: further chains that rules may lead to, though the host has them not yet. Rules of a built-in chain are settled in
    that chain. Raises XtablesError with the rule that iptables or the kernel refuses, and NoScratchError where no network
    namespace can be made.
    """
    stubs = _existing_chains(xtables, table, chains, coming)
    sets = _existing_sets(xtables, chains)
    text = _restore_text(table, chains, stubs)
    code, stdout, stderr = _run(xtables, table, text, sets)
    if code != 0:
        raise _refusal(xtables, table, chains, stubs, sets, text, stderr)
    try:
        settled = parse_save(stdout)
    except XtablesError:
        settled = {}
    for chain in chains:
        if chain not in settled:
            raise XtablesError(xtables.command, f"takes no rules for chain {chain}: one of them only asks for help")
    return {chain: settled[chain] for chain in chains}


def _existing_chains(xtables: Xtables, table: str, chains: Chains, coming: Collection[str]) -> list[str]:
    named = {target for rules in chains.values() for rule in rules for target in targets(rule)}
    candidates = named - set(chains) - set(VERDICTS) - set(BUILT_IN_CHAINS[table])
    return sorted(name for name in candidates if name in coming or xtables.list_chain(table, name) is not None)


def _existing_sets(xtables: Xtables, chains: Chains) -> list[str]:
    """The ``create`` lines of the ipsets that rules match and that the host has, without their entries."""
    named = {name for rules in chains.values() for rule in rules for name in ipsets(rule)}
    if not named:
        return []
    ipset = xtables.runner.find("ipset")
    if ipset is None:
        raise XtablesError(
            xtables.command, "ipset is not installed on this host, and rules match ipsets: " + ", ".join(sorted(named))
        )
    saved = [xtables.runner.run([ipset, "save", "-t", name]) for name in sorted(named)]
    for code, dummy, stderr in saved:
        if code and "does not exist" not in stderr:
            raise XtablesError("ipset", " ".join(stderr.split()))
    return [_HASH_SIZE.sub("", stdout.strip("\n")) for code, stdout, dummy in saved if code == 0]


def _restore_text(table: str, chains: Chains, stubs: Iterable[str]) -> str:
    """All chains declared, then all rules, those of built-in chains last, which may jump to the others."""
    names = sorted(chains, key=lambda name: (name in BUILT_IN_CHAINS[table], name))
    lines = ["*" + table]
    lines += [
        f":{name} {'ACCEPT' if name in BUILT_IN_CHAINS[table] else '-'} [0:0]" for name in sorted([*names, *stubs])
    ]
    lines += [f"-A {name} {rule}" for name in names for rule in chains[name]]
    return "\n".join([*lines, "COMMIT", ""])


def _run(xtables: Xtables, table: str, text: str, sets: Sequence[str]) -> tuple[int, str, str]:
    unshare = xtables.runner.find("unshare")
    if unshare is None:
        raise NoScratchError(xtables.command, "unshare (util-linux) is not installed on this host")
    script = _SCRIPT.format(
        ipset=shlex.quote(xtables.runner.find("ipset") or "ipset"),
        restore=shlex.join([*xtables.tool("-restore"), *xtables.lock_options]),
        save=shlex.join([*xtables.tool("-save"), "-t", table]),
    )
    result = (1, "", "unshare:")
    for options in (["-n"], ["-n", "-r"]):
        result = xtables.runner.run([unshare, *options, "sh", "-c", script, "scratch", *sets], text)
        if not result[2].startswith("unshare:"):
            return result
    raise NoScratchError(
        xtables.command, "no network namespace can be made on this host: " + " ".join(result[2].split())
    )


def _refusal(
    xtables: Xtables, table: str, chains: Chains, stubs: Sequence[str], sets: Sequence[str], text: str, stderr: str
) -> XtablesError:
    """The error for a text that was refused. iptables names the table's COMMIT instead of a rule for a missing chain
    (nft), and for what the kernel refuses (legacy): then it is the last rule of the shortest beginning that is refused.
    """
    error = refusal(xtables.command, text, stderr)
    if error.rule is not None or stderr.startswith("ipset") or not any(chains.values()):
        return error
    accepted, refused = 0, sum(map(len, chains.values()))
    while refused - accepted > 1:
        middle = (accepted + refused) // 2
        code = _run(xtables, table, _restore_text(table, _beginning(table, chains, middle), stubs), sets)[0]
        accepted, refused = (middle, refused) if code == 0 else (accepted, middle)
    beginning = _restore_text(table, _beginning(table, chains, refused), stubs)
    rule = rule_at(beginning, beginning.count("\n") - 1)
    message = f"the kernel refuses it ({error.message})" if _COMMIT_REFUSED.search(stderr) else error.message
    return XtablesError(xtables.command, message, rule)


def _beginning(table: str, chains: Chains, count: int) -> dict[str, list[str]]:
    """The first rules of all chains, in the order of `_restore_text`."""
    names = sorted(chains, key=lambda name: (name in BUILT_IN_CHAINS[table], name))
    rules = islice(((name, rule) for name in names for rule in chains[name]), count)
    result: dict[str, list[str]] = {name: [] for name in chains}
    for name, rule in rules:
        result[name].append(rule)
    return result
