# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run keeps for the next one, so that it looks only at what is asked for differently: the values, and their text. Pure.

Of each service: what the user wrote, from which its chains follow, or their names where that was not seen. Of the chains that
serve all: their rules. It holds as long as nobody has changed a rule since. A text that fails its checksum, or that says
anything else than `encode` would, is as if there were none.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._model.service_facts import ServiceFacts, merged_facts
from ..._objects.iptables import ChainKey, Observed, Rules
from ..._objects.node_facts import BaseChain, ChainOfOthers, NftRule
from ..netfilter.names import Layout, owner_of
from ..records import facts_of_plain, from_line, plain_facts, require, texts, to_line
from .shared_chains import translated_to

FORMAT = 2
"""Raised by hand whenever what stands in the file changes its shape."""
_ENCODER = json.JSONEncoder(sort_keys=True, default=str)
_NO_FACTS = ServiceFacts()


class CachedService(NamedTuple):
    """A service that a node has."""

    raw: dict[str, Any] | None
    """As the user wrote it; None where that was not seen."""
    chains: dict[str, list[str]]
    """The names of its chains by address family, only where `raw` is None."""
    backends: list[str]
    """Their addresses."""
    sets: list[str]
    """The names of its ipsets."""
    facts: ServiceFacts = _NO_FACTS


class CachedState(NamedTuple):
    """All that a run leaves."""

    services: dict[str, CachedService]
    shared: dict[str, Observed]
    """By address family: the chains that serve all, and the built-in chains in which our jumps stand."""


class CacheHeader(NamedTuple):
    """As much of it as a run needs that is asked for the same."""

    state: str
    """What the rules have had since (`RulesState.now`)."""
    digest: str
    """Of our chains; empty as long as nobody else has changed a rule."""
    settings: str
    """A digest of all that rules depend on beside services."""
    request: str
    """A digest of all that was asked for."""
    has_udp: bool
    """Whether there is a service over UDP, whose flows have to be judged in each run."""
    facts: ServiceFacts
    """Of all services."""
    hooks: dict[str, dict[ChainKey, Rules]]
    """By address family: the built-in chains in which our jumps stand."""
    foreign_chains: Sequence[ChainOfOthers]


class Difference(NamedTuple):
    """What is asked for beyond what is there already."""

    changed: list[Any]
    """Services as users write them."""
    removed: set[str]
    kept: dict[str, CachedService]

    @property
    def names(self) -> set[str]:
        return {raw["name"] for raw in self.changed} | self.removed


def digest(raw: Any) -> str:
    """Return a digest of a request, or of settings. Equal ones that are written in another order have another digest."""
    return hashlib.sha256(_ENCODER.encode(raw).encode()).hexdigest()[:24]


def difference(cached: CachedState, state: str, services: Sequence[Any], exclusive: bool) -> Difference | None:
    """Return what is asked for beyond what is there; None where that cannot be told service by service."""
    if not all(isinstance(raw, dict) and isinstance(raw.get("name"), str) for raw in services):
        return None
    wanted = {raw["name"]: raw for raw in services}
    known = cached.services
    if len(wanted) != len(services):
        return None
    if state == "absent":
        changed, removed = [], set(known) if exclusive else wanted.keys() & known.keys()
    else:
        changed = [raw for name, raw in wanted.items() if name not in known or known[name].raw != raw]
        removed = known.keys() - wanted.keys() if exclusive else set()
    differing = removed | {raw["name"] for raw in changed}
    return Difference(changed, removed, {name: one for name, one in known.items() if name not in differing})


def cached_state(
    raws: Iterable[Any],
    facts: Mapping[str, ServiceFacts],
    held: Mapping[str, Observed],
    layout: Layout,
    kept: Mapping[str, CachedService],
) -> CachedState:
    """Return what is held once a run is done. raws, facts: of its services. kept: services of which `held` has no chains."""
    written = {raw["name"]: raw for raw in raws}
    found: dict[str, CachedService] = dict(kept)
    for family, one in held.items():
        for name, chains in _chains_by_owner(one, layout).items():
            known = found.setdefault(name, CachedService(written.get(name), {}, [], [], facts.get(name, _NO_FACTS)))
            rules = [rule for chain in chains for rule in one.chains["nat", chain]]
            if known.raw is None:
                known.chains[family] = chains
            known.backends.extend(translated_to(rules))
            known.sets.extend(sorted(layout.affinity_sets(rules)))
    shared = {
        family: Observed(
            {key: rules for key, rules in one.chains.items() if not _owner(key, rules, layout)}, dict(one.hooks)
        )
        for family, one in held.items()
    }
    in_shared = {owner_of(rule) or "" for one in shared.values() for rules in one.chains.values() for rule in rules}
    for name in (in_shared | written.keys()) - found.keys() - {""}:
        found[name] = CachedService(written.get(name), {}, [], [], facts.get(name, _NO_FACTS))
    return CachedState(found, shared)


def has_udp(cached: CachedState) -> bool:
    """Tell whether a service is over UDP."""
    return any("-p udp " in rule for one in cached.shared.values() for rules in one.chains.values() for rule in rules)


def all_facts(cached: Iterable[CachedService]) -> ServiceFacts:
    """Return the facts of all these services together."""
    return merged_facts([one.facts for one in cached])


def encode(header: CacheHeader, cached: CachedState) -> str:
    """Return the text: a checksum and the header, then a checksum and the rest, each on a line of its own."""
    shared = {family: [_listed(one.chains), _listed(one.hooks)] for family, one in cached.shared.items()}
    services = {name: [*one[:-1], plain_facts(one.facts)] for name, one in cached.services.items()}
    return encode_header(header) + to_line([services, shared])


def encode_header(header: CacheHeader) -> str:
    """Return the first line of the text."""
    hooks = {family: _listed(chains) for family, chains in header.hooks.items()}
    return to_line([FORMAT, *header[:5], plain_facts(header.facts), hooks, header.foreign_chains])


def decode_header(text: str) -> CacheHeader | None:
    """Return the header; None for a text that `encode` did not make."""
    try:
        version, state, of_chains, settings, request, udp, facts, hooks, foreign = from_line(text.partition("\n")[0])
        if version != FORMAT:
            return None
        require(str, state, of_chains, settings, request)
        require(bool, udp)
        chains = {require(str, family): _chains(listed) for family, listed in hooks.items()}
        return CacheHeader(state, of_chains, settings, request, udp, facts_of_plain(facts), chains, _foreign(foreign))
    except (TypeError, ValueError, AttributeError, KeyError):
        return None


def decode(text: str) -> CachedState | None:
    """Return the rest; None for a text that `encode` did not make."""
    try:
        services, shared = from_line(text.partition("\n")[2].rstrip("\n"))
        return CachedState(
            _services(services),
            {require(str, family): Observed(*map(_chains, parts)) for family, parts in shared.items()},
        )
    except (TypeError, ValueError, AttributeError, KeyError):
        return None


def _services(plain: Any) -> dict[str, CachedService]:
    """All services; of ten thousand the types are checked together. Facts have lists for sets, which are merged alike."""
    found = {
        name: CachedService(raw, chains, backends, sets, ServiceFacts._make(facts))
        for name, (raw, chains, backends, sets, facts) in plain.items()
    }
    lists: list[Any] = []
    for one in found.values():
        facts = one.facts
        lists += one[2:4]
        lists += facts[:2]
        lists += facts[3:]
        if one.chains:
            lists += one.chains.values()
    raws = [one.raw for one in found.values() if one.raw is not None]
    _require_all(list, lists)
    _require_all(str, itertools.chain.from_iterable(lists))
    _require_all(bool, (one.facts.has_node_port for one in found.values()))
    _require_all(dict, (one.chains for one in found.values()))
    _require_all(dict, raws)
    _require_all(str, (raw["name"] for raw in raws))
    return found


def _require_all(kind: type, values: Iterable[Any]) -> None:
    others = set(map(type, values)) - {kind}
    if others:
        raise TypeError(f"{others} instead of {kind.__name__}")


def _listed(chains: Mapping[ChainKey, Rules]) -> list[Any]:
    return [[*key, list(rules)] for key, rules in chains.items()]


def _chains(listed: Any) -> dict[ChainKey, Rules]:
    return {(require(str, table), require(str, chain)): texts(rules) for table, chain, rules in listed}


def _foreign(plain: Any) -> list[ChainOfOthers]:
    found: list[ChainOfOthers] = []
    for chain, rules in plain:
        family, table, name, hook, policy, used = chain
        require(str, family, table, name, hook, policy, *(text for rule in rules for text in rule))
        base = BaseChain(family, table, name, hook, policy, require(bool, used))
        found.append((base, [NftRule(verdict, match) for verdict, match in rules]))
    return found


def _chains_by_owner(one: Observed, layout: Layout) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, rules in one.chains.items():
        owner = _owner(key, rules, layout)
        if owner:
            found.setdefault(owner, []).append(key[1])
    return found


def _owner(key: ChainKey, rules: Rules, layout: Layout) -> str | None:
    """The service that has a chain for itself; None for one that serves all, and for one in which nothing tells whose it is."""
    return owner_of(rules[0]) if rules and layout.is_per_service(key) else None
