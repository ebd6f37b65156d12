# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether rules in front of ours in a built-in chain drop by default, as those of Docker, libvirt, firewalld and ufw do. Pure.

A drop that somebody has made for certain senders, destinations or ports, as fail2ban does for an address, is no such default:
it is meant for services, too, and stays in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .._objects.iptables import Rules
from .._objects.iptables_words import words

_DROPS = ("DROP", "REJECT")
_CERTAIN = frozenset(
    "-s --source --src -d --destination --dst --src-range --dst-range --match-set --mac-source --sport --sports --dport --dports "
    "--ports --rcheck --update --tcp-flags --syn --uid-owner --gid-owner --icmp-type --icmpv6-type --dst-type --src-type".split()
)
"""Options of rules that are for some traffic; also to be negated does not make them a default."""
_PROTOCOLS = frozenset(("tcp", "udp", "sctp", "all"))
_STATES = frozenset(("NEW", "RELATED", "ESTABLISHED", "DNAT"))
_UNTRANSLATED = _STATES - {"DNAT"}
"""What connections to services are; the latter where rules of ours are about those that are not translated."""
_SAY_NOTHING = ("-m", "--comment", "-j", "-g", "--reject-with")


class _Rule(NamedTuple):
    target: str
    is_default: bool
    """Whether traffic of services is likely to be among what it takes."""
    takes_all: bool
    """Whether all traffic of services is."""


def drops_by_default(rules: Rules, chains: Mapping[str, Rules], hook: str = "FORWARD") -> bool:
    """Whether these rules of a hook, or those of a chain that they lead to, drop what no rule before them accepts.

    chains: those that others have made in the table; of one that is missing here it is not known, so that it may.
    """
    return _walk(rules, chains, hook, frozenset())[0]


def _walk(rules: Rules, chains: Mapping[str, Rules], hook: str, above: frozenset[str]) -> tuple[bool, bool]:
    """Whether a rule drops, and else whether all traffic of services ends here."""
    for rule in (_parse(text, hook) for text in rules):
        if not rule.is_default or not rule.target:
            continue
        if rule.target in _DROPS:
            return True, True
        if rule.target in ("ACCEPT", "RETURN"):
            if rule.takes_all:
                return False, rule.target == "ACCEPT"
        elif rule.target in chains and rule.target not in above:
            drops, ends = _walk(chains[rule.target], chains, hook, above | {rule.target})
            if drops or (ends and rule.takes_all):
                return drops, ends
        elif not rule.target.isupper() or "-" in rule.target:
            return True, True
    return False, False


def _parse(text: str, hook: str) -> _Rule:
    options: dict[str, tuple[bool, str]] = {}
    negated, name = False, ""
    for word in words(text):
        if word.text == "!" and not word.quoted:
            negated, name = True, ""
        elif word.text.startswith("-") and not word.quoted:
            name = word.text
            options[name] = (negated, "")
            negated = False
        elif name:
            options[name] = (options[name][0], word.text)
            name = ""
    target = next((options[key][1] for key in ("-j", "-g") if key in options), "")
    conditions = {key: value for key, value in options.items() if key not in _SAY_NOTHING}
    if hook == "INPUT" and conditions.get("--dst-type") == (False, "LOCAL"):
        del conditions["--dst-type"]  # all is, there
    states = _states(conditions, _UNTRANSLATED if hook == "INPUT" else _STATES)
    protocol = conditions.get("-p", (False, "all"))
    is_default = not _CERTAIN & conditions.keys() and bool(states) and (protocol[0] or protocol[1] in _PROTOCOLS)
    takes_all = (
        is_default
        and not conditions.keys() - {"--ctstate", "--state"}
        and ("DNAT" in states or {"NEW", "ESTABLISHED"} <= states)
    )
    return _Rule(target, is_default and conditions.get("-i") != (False, "lo"), takes_all)


def _states(conditions: Mapping[str, tuple[bool, str]], possible: frozenset[str]) -> frozenset[str]:
    """The states of connections to services that a rule takes. possible: which they can have."""
    for key in ("--ctstate", "--state"):
        if key in conditions:
            negated, states = conditions[key]
            named = possible & set(states.split(","))
            # A connection is DNAT besides what else it is.
            return (frozenset() if "DNAT" in named else possible - named) if negated else named
    return possible
