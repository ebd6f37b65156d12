# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What iptables' matches say about a packet, and what its targets do to one. Pure.

Of the extensions those are known that our own rules use; anything else is an error that names it, not a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Callable, NamedTuple, Union

from ..._model import addresses as ip
from ..._objects.iptables_words import words
from ..packet import Packet
from .names import SAME_ADDRESS

_STATISTIC_UNIT = 1 << 31
"""The kernel keeps a chance as a whole number of these parts (``xt_statistic``)."""
Chance = Union[int, Fraction]
_ALL_MARK_BITS = 0xFFFFFFFF


class UnknownRule(ValueError):
    """A rule with a match or target of which nothing is known here."""


InSet = Callable[[Packet, str, str], bool]
"""Whether an ipset has an entry for a packet: by the set's name, and which parts of the packet make one (``dst,dst``)."""


def in_no_set(dummy: Packet, _name: str, _parts: str) -> bool:
    """Of sets that hold the clients of session affinity, of whom a new client is none."""
    return False


class Option(NamedTuple):
    """One option of a rule with its values."""

    name: str
    values: tuple[str, ...]
    negated: bool


class Rule(NamedTuple):
    """A rule taken apart. matches are asked in order."""

    text: str
    matches: tuple[Option, ...]
    target: str
    goto: bool
    settings: Mapping[str, tuple[str, ...]]

    def chance(self, packet: Packet, in_set: InSet = in_no_set) -> Chance:
        """How likely the rule takes this packet: 0 or 1, but for those that ask the dice."""
        chance: Chance = 1
        for match in self.matches:
            holds: Chance = (in_set if match.name == _SET else _MATCHES[match.name])(packet, *match.values)
            if match.negated:
                holds = 1 - holds
            if not holds:
                return 0
            if holds != 1:
                chance *= holds
        return chance


@lru_cache(maxsize=None)
def parse_rule(text: str) -> Rule:
    """A rule specification as ``iptables-save`` prints it. Raises UnknownRule."""
    options = _options(text)
    at = next((i for i, option in enumerate(options) if option.name in ("-j", "-g")), len(options))
    matches = tuple(option for option in options[:at] if option.name not in _SAY_NOTHING)
    unknown = [option.name for option in matches if option.name not in (*_MATCHES, _SET)]
    if unknown:
        raise UnknownRule(f"the match {unknown[0]} is not known (in the rule: {text})")
    if at == len(options):
        return Rule(text, matches, "", False, {})
    settings = {option.name: option.values for option in options[at + 1 :]}
    return Rule(text, matches, options[at].values[0], options[at].name == "-g", settings)


def _options(text: str) -> list[Option]:
    """The words of a rule, each option with the values behind it and the ``!`` before it."""
    options: list[Option] = []
    negated = False
    for word in words(text):
        if word.quoted or not (word.text.startswith("-") or word.text == "!"):
            last = options[-1]
            options[-1] = last._replace(values=last.values + (word.text,))
        elif word.text == "!":
            negated = True
        else:
            options.append(Option(word.text, (), negated))
            negated = False
    return options


def _mark(packet: Packet, text: str) -> bool:
    value, mask = _value_and_mask(text)
    return packet.mark & mask == value


def _value_and_mask(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else _ALL_MARK_BITS


def _port(packet: Packet, text: str) -> bool:
    first, dummy, last = text.partition(":")
    return int(first) <= packet.port <= int(last or first)


def _address_type(packet: Packet, address: str, kind: str) -> bool:
    if kind != "LOCAL":
        raise UnknownRule(f"the address type {kind} is not known")
    return packet.is_local(address)


def _comes_by(packet: Packet, interface: str) -> bool:
    if interface != "lo":
        raise UnknownRule(f"by which interface a packet comes is not known (-i {interface})")
    return packet.is_local(packet.source)


def _leaves_by(packet: Packet, interface: str) -> bool:
    if interface != "lo":
        raise UnknownRule(f"by which interface a packet leaves is not known (-o {interface})")
    return packet.is_local(packet.destination)


def _comes_to_its_sender(packet: Packet, bytecode: str) -> bool:
    if f'-m bpf --bytecode "{bytecode}"' != SAME_ADDRESS[ip.family_of(packet.source)]:
        raise UnknownRule(f"the bytecode {bytecode} is not known")
    return packet.source == packet.destination


def _probability(dummy: Packet, text: str) -> Fraction:
    return Fraction(round(float(text) * _STATISTIC_UNIT), _STATISTIC_UNIT)


_SAY_NOTHING = ("-m", "--comment", "--mode")
_SET = "--match-set"
_MATCHES: dict[str, Callable[..., Chance]] = {
    "-s": lambda packet, network: ip.contains(network, packet.source),
    "-d": lambda packet, network: ip.contains(network, packet.destination),
    "-p": lambda packet, protocol: packet.protocol == protocol,
    "--dport": _port,
    "--mark": _mark,
    "--ctstate": lambda packet, states: bool(set(states.split(",")) & set(packet.states)),
    "--src-type": lambda packet, kind: _address_type(packet, packet.source, kind),
    "--dst-type": lambda packet, kind: _address_type(packet, packet.destination, kind),
    "--probability": _probability,
    "--bytecode": _comes_to_its_sender,
    "-i": _comes_by,
    "-o": _leaves_by,
    "--ipvs": lambda packet: bool(packet.forwarded),
}
"""Chances by option."""


def _accept(packet: Packet, dummy: Mapping[str, Sequence[str]]) -> Packet:
    return packet


def _drop(packet: Packet, dummy: Mapping[str, Sequence[str]]) -> Packet:
    return packet._replace(verdict="drop")


def _reject(packet: Packet, dummy: Mapping[str, Sequence[str]]) -> Packet:
    return packet._replace(verdict="reject")


def _dnat(packet: Packet, settings: Mapping[str, Sequence[str]]) -> Packet:
    address, dummy, port = settings["--to-destination"][0].rpartition(":")
    return packet._replace(destination=address.strip("[]"), port=int(port), dnat=True)


def _snat(packet: Packet, settings: Mapping[str, Sequence[str]]) -> Packet:
    return packet._replace(snat=settings["--to-source"][0])


def _masquerade(packet: Packet, dummy: Mapping[str, Sequence[str]]) -> Packet:
    return packet._replace(snat="masquerade")


def _set_mark(packet: Packet, settings: Mapping[str, Sequence[str]]) -> Packet:
    value, mask = _value_and_mask(settings["--set-xmark"][0])
    return packet._replace(mark=packet.mark & ~mask ^ value)


def _leave_untracked(packet: Packet, settings: Mapping[str, Sequence[str]]) -> Packet:
    if list(settings) != ["--notrack"]:
        raise UnknownRule("of the target CT only --notrack is known")
    return packet._replace(tracked=False)


Change = Callable[[Packet, Mapping[str, Sequence[str]]], Packet]

FINAL_TARGETS: Mapping[str, Change] = {
    "ACCEPT": _accept,
    "DROP": _drop,
    "REJECT": _reject,
    "DNAT": _dnat,
    "SNAT": _snat,
    "MASQUERADE": _masquerade,
}
"""Targets behind which a packet leaves the table's chains."""

PASSING_TARGETS: Mapping[str, Change] = {"": _accept, "MARK": _set_mark, "SET": _accept, "CT": _leave_untracked}
"""Targets behind which the next rule is asked."""
