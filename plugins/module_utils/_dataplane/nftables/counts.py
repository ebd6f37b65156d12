# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the services of a node is kept once for several of them, counted, so that one service can be taken out again. Pure.

With the counts of all and the elements of the services that differ, the tables that others hold up are known without their elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._model import addresses as ip
from ..._model.service import Node, Service
from ..._model.service_facts import Counted, count_facts
from ..._objects.nftables import Element, Elements, Verdict
from . import maps
from .maps import FRONTS, Maps
from .tables import backends_of

_KEPT = b"elements of services that stay as they are: "
"""Begins a key that is longer than any of an element."""
_LEADING = (*maps.VERDICT_MAPS, *(front.affinity for front in FRONTS))
"""The maps of which some element decides what else a table has."""
_SEPARATOR = " "
_BETWEEN = "|"
_NOTHING = Element()


class Counts(NamedTuple):
    """What services have in common with others. All of it adds up."""

    facts: Counted
    leading: Counter[str]
    """By family, map and chain: the elements that lead to this chain; of maps that lead nowhere the chain is empty."""
    backends: Counter[str]
    """By address in hexadecimal: the elements that lead to this backend."""

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """Return the counts with those of other services added; with sign -1, taken out."""
        facts = {field: _sum(counter, other.facts[field], sign) for field, counter in self.facts.items()}
        return Counts(facts, _sum(self.leading, other.leading, sign), _sum(self.backends, other.backends, sign))

    def kept(self, family: str) -> Maps:
        """Return elements that stand for all that lead to the same, in one family."""
        found: Maps = {}
        for text in self.leading:
            of, name, chain = text.split(_SEPARATOR)
            if of == family:
                verdict = Verdict("goto", chain) if chain else None
                found.setdefault(name, {})[_KEPT + chain.encode()] = Element(verdict)
        return found

    def shared(self, family: str, services: Iterable[Service]) -> Maps:
        """Return the elements of no single service that have an address of one of these services or of its backends."""
        hairpin, addresses = {}, {}
        for service in services:
            for backend in service.backends:
                address = maps.address_bytes(backend.address)
                if backend.family == family and address.hex() in self.backends:
                    hairpin[address + address] = _NOTHING
            for text in service.addresses:
                if ip.family_of(text) == family and text in self.facts["addresses"]:
                    addresses[maps.address_bytes(text)] = _NOTHING
        return {maps.HAIRPIN: hairpin, maps.SERVICE_ADDRESSES: addresses}

    def families(self) -> set[str]:
        """Return the families in which there is a service."""
        return {text.split(_SEPARATOR)[0] for text in self.leading}


def count(services: Sequence[Service], elements: Mapping[str, Maps], node: Node) -> Counts:
    """Return the counts of services that compile to these elements."""
    leading: Counter[str] = Counter()
    backends: Counter[str] = Counter()
    for family, found in elements.items():
        for name in _LEADING:
            leading.update(_leading(family, name, found.get(name, {})))
        backends.update({address.hex(): times for address, times in backends_of(found, family).items()})
    return Counts(count_facts(services, node), leading, backends)


def _leading(family: str, name: str, elements: Elements) -> Counter[str]:
    chains = Counter(one.data.chain if isinstance(one.data, Verdict) else "" for one in elements.values())
    return Counter({_SEPARATOR.join((family, name, chain)): times for chain, times in chains.items()})


def plain(counts: Counts) -> Any:
    """Return them as values that JSON knows. What is there once, as most is, stands in one text, which is read much faster."""
    return [{field: _plain(counter) for field, counter in counts.facts.items()}, *map(_plain, counts[1:])]


def _plain(counter: Counter[str]) -> tuple[str, dict[str, int]]:
    once = [key for key, times in counter.items() if times == 1 and key and _BETWEEN not in key]
    more = {key: counter[key] for key in counter.keys() - once} if len(once) < len(counter) else {}
    return _BETWEEN.join(once), more


def from_plain(found: Any) -> Counts:
    """Return what `plain` was made of. Raises TypeError, ValueError or KeyError for anything else."""
    facts, leading, backends = found
    return Counts({field: _counter(facts[field]) for field in facts}, _counter(leading), _counter(backends))


def _counter(found: Any) -> Counter[str]:
    once, more = found
    if not isinstance(once, str) or not isinstance(more, dict) or not all(map(int.__instancecheck__, more.values())):
        raise TypeError("no counts")
    return Counter({**dict.fromkeys(once.split(_BETWEEN) if once else (), 1), **more})


def _sum(one: Counter[str], other: Counter[str], sign: int) -> Counter[str]:
    if not other:
        return one
    found = one.copy()
    for key, times in other.items():
        found[key] += sign * times
        if not found[key]:
            del found[key]
    return found
