# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long dispatch chains as trees, so that no connection pays for services that it does not use. Pure.

A chain of few rules is a list. A longer one leads to a chain for each sixteenth of the addresses that its services have
in common, and where they have one address, of their ports. The tree depends on the rules alone, not on how they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from ..._model import addresses as ip
from ..netfilter.names import Layout, rule

LONGEST_LIST = 32
"""More rules than these become a tree. In a /28 each address has room for two ports."""
FEWEST_FOR_A_CHAIN = 3
"""Fewer rules than these stand where the jump to their chain would."""
_DIGIT = 4
"""Bits that each level of a tree decides: a level has at most 16 branches."""
_PLACE = re.compile(r"(?:-s \S+ )?(?:-d ([^/ ]+)/(?:32|128) )?-p (\w+) .*-m \2 --dport (\d+)(?= )")

_Key = TypeVar("_Key")


class _Leaf(NamedTuple):
    """A rule and what it is for, in the order of rules: what is dropped is behind what is rejected or let pass by source.

    family: empty, and address 0, for every address of the node.
    """

    family: str
    address: int
    protocol: str
    port: int
    drops: bool
    text: str


class _Branch(NamedTuple):
    """The packets that a jump takes: name says which, as text for a chain's name."""

    name: str
    what: str
    destination: str = ""
    protocol: str = ""
    ports: str = ""


def dispatch_chains(layout: Layout, chain: str, rules: Iterable[str]) -> dict[str, list[str]]:
    """The dispatch chain with this name and those below it, from the rules of all services in any of them.

    Rules that are for no one address and port, which are none of ours, come last in the first chain.
    """
    return {name: list(found) for name, found in _tree(layout.prefix, chain, tuple(sorted(rules))).items()}


@lru_cache(maxsize=4)
def _tree(prefix: str, chain: str, rules: tuple[str, ...]) -> dict[str, list[str]]:
    """The same; where nothing but backends changes, what is wanted has the trees of what is held."""
    leaves, strays = _leaves(rules)
    chains: dict[str, list[str]] = {}
    _Tree(Layout(prefix), chains).grow(chain, leaves)
    chains[chain] += strays
    return chains


def _leaves(rules: Sequence[str]) -> tuple[list[_Leaf], list[str]]:
    """The rules with what they are for, and the strays. Beside rules for addresses one for all addresses is a stray."""
    found = [(text, _leaf(text)) for text in rules]
    everywhere = not any(leaf and leaf.family for dummy, leaf in found)
    leaves, strays = [], []
    for text, leaf in found:
        if leaf and (leaf.family or everywhere):
            leaves.append(leaf)
        else:
            strays.append(text)
    return sorted(leaves), sorted(strays)


@lru_cache(maxsize=None)
def _leaf(text: str) -> _Leaf | None:
    """What a rule is for; None where that is no one protocol and port."""
    place = _PLACE.match(text)
    if not place:
        return None
    address, protocol, port = place.groups()
    family, number = (ip.family_of(address), ip.to_number(address)) if address else ("", 0)
    return _Leaf(family, number, protocol, int(port), text.endswith("-j DROP"), text)


class _Tree:
    """Adds chains to those given, each with its rules."""

    def __init__(self, layout: Layout, chains: dict[str, list[str]]) -> None:
        self._layout, self._chains = layout, chains

    def grow(self, chain: str, leaves: Sequence[_Leaf]) -> None:
        """Give a chain its rules: the leaves in their order, or jumps to the chains among which they are divided."""
        branches = self._divide(leaves) if len(leaves) > LONGEST_LIST else []
        if len(branches) < 2:
            self._chains[chain] = [leaf.text for leaf in leaves]
            return
        rules: list[str] = []
        self._chains[chain] = rules
        for branch, part in branches:
            if len(part) < FEWEST_FOR_A_CHAIN:
                rules += [leaf.text for leaf in part]
            else:
                name = self._layout.branch(branch.name)
                to, protocol, ports = branch.destination, branch.protocol, branch.ports
                rules.append(rule(name, branch.what, destination=to, protocol=protocol, port=ports))
                self.grow(name, part)

    def _divide(self, leaves: Sequence[_Leaf]) -> list[tuple[_Branch, list[_Leaf]]]:
        """The leaves by the next digit in which their addresses differ, else their protocols and ports."""
        family, addresses = leaves[0].family, [leaf.address for leaf in leaves]
        shift = _shift(addresses)
        if min(addresses) != max(addresses):
            networks = _by([leaf.address >> shift for leaf in leaves], leaves)
            return [(_network(number << shift, shift, family), part) for number, part in networks]
        at = ip.from_number(addresses[0], family) if family else ""
        shift = _shift([leaf.port for leaf in leaves])
        ports = _by([(leaf.protocol, leaf.port >> shift) for leaf in leaves], leaves)
        return [(_ports(at, protocol, number << shift, shift), part) for (protocol, number), part in ports]


def _network(start: int, shift: int, family: str) -> _Branch:
    network = f"{ip.from_number(start, family)}/{ip.bits(family) - shift}"
    return _Branch(network, "services in " + network, network)


def _ports(at: str, protocol: str, start: int, shift: int) -> _Branch:
    """Port 0 is none that a service can have."""
    first, last = max(start, 1), start + (1 << shift) - 1
    name, what = f"{protocol}-{first}-{last}", f"{protocol} ports {first} to {last}"
    ports = f"{first}:{last}" if first < last else str(first)
    if not at:
        return _Branch(name, "node ports, " + what, protocol=protocol, ports=ports)
    return _Branch(f"{at}-{name}", f"services on {at}, {what}", ip.host_network(at), protocol, ports)


def _shift(numbers: Sequence[int]) -> int:
    """How many bits are behind the first digit in which any of these differ; 0 when all are equal."""
    different = min(numbers) ^ max(numbers)
    return max(different.bit_length() - 1, 0) // _DIGIT * _DIGIT


def _by(keys: Iterable[_Key], leaves: Iterable[_Leaf]) -> list[tuple[_Key, list[_Leaf]]]:
    parts: dict[_Key, list[_Leaf]] = {}
    for key, leaf in zip(keys, leaves):
        parts.setdefault(key, []).append(leaf)
    return list(parts.items())
