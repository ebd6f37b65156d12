# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A chain of one's own with its jumps, as a user writes it: parsed and validated. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._model import addresses as ip
from ..._model.messages import one_line
from ..._objects.iptables_words import BUILT_IN_CHAINS, Word, quote, render, words

FAMILIES = {**{family: (family,) for family in ip.FAMILIES}, "both": ip.FAMILIES}
"""What ``ip_version`` says."""
MAX_CHAIN_NAME = 28
"""XT_EXTENSION_MAXNAMELEN without the end of the string: what iptables takes."""

_ALL_HOOKS = frozenset(hook for hooks in BUILT_IN_CHAINS.values() for hook in hooks)
TARGETS = frozenset(
    "ACCEPT DROP QUEUE RETURN AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT DNAT DNPT DSCP ECN ERROR HL HMARK "
    "IDLETIMER LED LOG MARK MASQUERADE MIRROR NETMAP NFLOG NFQUEUE NOTRACK RATEEST REDIRECT REJECT SAME SECMARK SET SNAT "
    "SNPT SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG".split()
)
"""The targets of iptables and of its extensions (iptables-extensions(8)), the obsolete ones too."""

_NAME = re.compile(r"[A-Za-z0-9_.:+@/][A-Za-z0-9_.:+@/-]*")
_COMMAND = re.compile(r"-[A-Z]")
_LONG_COMMANDS = frozenset(
    "--append --check --delete --delete-chain --flush --help --insert --list --list-rules --modprobe --new --new-chain "
    "--policy --rename-chain --replace --table --version --zero".split()
)
_SHORT_COMMANDS = ("-t", "-h")
_TARGET = re.compile(r"-[jg]|--(?:jump|goto)(?:=|$)")
_MAX_COMMENT = 255


class InvalidChainError(ValueError):
    """What a user wrote cannot be meant; one line that says where, what is wrong, and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class JumpRequest(NamedTuple):
    """A rule in another chain that leads to ours. match: rule specification without target, empty for all packets."""

    hook: str
    match: str
    position: str
    comment: str

    def rule(self, chain: str) -> str:
        """The jump in the spelling of ``iptables-save``, as far as ``match`` is in it."""
        comment = f"-m comment --comment {quote(self.comment)}" if self.comment else ""
        return " ".join(part for part in (self.match, comment, f"-j {chain}") if part)


class ChainRequest(NamedTuple):
    """What a task asks for. rules and jumps are None where they shall stay as they are.

    behind: chains behind whose jumps those to this one stand. The roles have some, which is no option of `nat_chain`.
    """

    families: Sequence[str]
    table: str
    chain: str
    present: bool
    rules: Sequence[str] | None
    jumps: Sequence[JumpRequest] | None
    behind: tuple[str, ...] = ()

    @property
    def hooks(self) -> list[str]:
        """The chains in which jumps to this one are looked for: the built-in ones, and those that are named."""
        named = [jump.hook for jump in self.jumps or ()]
        return sorted({*BUILT_IN_CHAINS[self.table], *named})


def parse_chain(options: Mapping[str, Any]) -> ChainRequest:
    """The request in the options of `nat_chain`. Raises InvalidChainError."""
    table, chain = options["table"], options["chain"]
    _check_name(chain, "chain")
    rules, jumps = options["rules"], options["jumps"]
    return ChainRequest(
        FAMILIES[options["ip_version"]],
        table,
        chain,
        options["state"] == "present",
        None if rules is None else [_parse_rule(chain, number, rule) for number, rule in enumerate(rules, 1)],
        None if jumps is None else [_parse_jump(table, chain, number, jump) for number, jump in enumerate(jumps, 1)],
        tuple(options.get("behind", ())),
    )


def _check_name(name: str, option: str) -> None:
    problem = ""
    if not _NAME.fullmatch(name):
        problem = "must be letters, digits and _.:+@/-, and not begin with a dash"
    elif len(name) > MAX_CHAIN_NAME:
        problem = f"must be at most {MAX_CHAIN_NAME} characters, not {len(name)}"
    elif name in _ALL_HOOKS:
        problem = "is a built-in chain: must be a chain of your own (jumps lead to it from built-in chains)"
    elif name in TARGETS:
        problem = "is the name of a target: must be another name"
    if problem:
        raise InvalidChainError(f"{option} {name!r} {problem}")


def _parse_rule(chain: str, number: int, text: str) -> str:
    where = f"chain {chain}, rule {number} ({text.strip()!r})"
    rule = _words(where, text)
    if not rule:
        raise InvalidChainError(
            f"{where}: must not be empty: a rule specification such as '-p tcp --dport 80 -j ACCEPT'"
        )
    return render(rule)


def _parse_jump(table: str, chain: str, number: int, options: Mapping[str, Any]) -> JumpRequest:
    hook, match, comment = options["from"], options["match"] or "", options["comment"] or ""
    where = f"chain {chain}, jump {number} from {hook!r}"
    if hook in _ALL_HOOKS and hook not in BUILT_IN_CHAINS[table]:
        raise InvalidChainError(
            f"{where}: table {table} has no such chain: must be one of {', '.join(BUILT_IN_CHAINS[table])}, or a chain of your own"
        )
    if hook not in _ALL_HOOKS:
        _check_name(hook, f"{where}: from")
    if hook == chain:
        raise InvalidChainError(f"{where}: a chain cannot jump to itself: must be another chain")
    rule = _words(f"{where} ({match.strip()!r})", match)
    if any(_TARGET.match(word.text) for word in rule if not word.quoted):
        raise InvalidChainError(
            f"{where} ({match.strip()!r}): match must be without target (-j, -g): it leads to {chain}"
        )
    if len(comment.encode()) > _MAX_COMMENT or not comment.isprintable():
        raise InvalidChainError(f"{where}: comment must be one line of at most {_MAX_COMMENT} bytes")
    return JumpRequest(hook, render(rule), options["position"], comment)


def _words(where: str, text: str) -> list[Word]:
    """The words of a rule that carries no command; a command would reach beyond the chain."""
    if any(ord(character) < ord(" ") and character != "\t" for character in text.strip()):
        raise InvalidChainError(f"{where}: must be one line without control characters")
    try:
        rule = words(text)
    except ValueError as error:
        raise InvalidChainError(
            f"{where}: {error}: must be closed, inside double quotes a backslash goes before a quote"
        ) from None
    for word in rule:
        if not word.quoted and _is_command(word.text):
            raise InvalidChainError(f"{where}: must be a rule specification alone, without {word.text}")
    return rule


def _is_command(word: str) -> bool:
    return bool(_COMMAND.match(word)) or word in _SHORT_COMMANDS or word.partition("=")[0] in _LONG_COMMANDS
