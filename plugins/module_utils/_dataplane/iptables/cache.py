# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is worth remembering of a run, so that the next one looks only at what is asked for differently. Pure.

Of each service: what the user wrote, from which its chains follow, or their names where that was not seen; its backends'
addresses and its ipsets. Of the chains that serve all: their rules. It is good as long as nobody has changed a rule since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._objects.iptables import ChainKey, Observed, Rules
from ..netfilter.names import Layout, owner_of
from ..netfilter.shared_chains import translated_to

_MOST_SAMPLES = 100
_NETWORK_PARTS = 2
_ENCODER = json.JSONEncoder(sort_keys=True, default=str)


class Known(NamedTuple):
    """A service. raw: as the user wrote it; None where that was not seen. chains: their names by address family, only then."""

    raw: dict[str, Any] | None
    chains: dict[str, list[str]]
    backends: list[str]
    sets: list[str]


class Memory(NamedTuple):
    """settings: a digest of all else that rules depend on. shared: by address family. samples: services as users write
    them, of each kind at least one.
    """

    settings: str
    services: dict[str, Known]
    shared: dict[str, Observed]
    samples: list[Any]


class Brief(NamedTuple):
    """As much of a memory as a run needs that is asked for the same. has_udp: whether there is a service over UDP."""

    settings: str
    samples: list[Any]
    has_udp: bool


class Difference(NamedTuple):
    """changed: services as users write them. gone: names. kept: what is known of the others."""

    changed: list[Any]
    gone: set[str]
    kept: dict[str, Known]

    @property
    def names(self) -> set[str]:
        return {raw["name"] for raw in self.changed} | self.gone


def digest(raw: Any) -> str:
    """Of a request, or of settings. Equal ones that are written in another order have another digest."""
    return hashlib.sha256(_ENCODER.encode(raw).encode()).hexdigest()[:24]


def difference(memory: Memory, state: str, services: Sequence[Any], exclusive: bool) -> Difference | None:
    """What is asked for beyond what is there already; None where that cannot be told service by service."""
    if not all(isinstance(raw, dict) and isinstance(raw.get("name"), str) for raw in services):
        return None
    wanted = {raw["name"]: raw for raw in services}
    known = memory.services
    if len(wanted) != len(services) or (state == "absent" and exclusive):
        return None
    if state == "absent":
        changed, gone = [], wanted.keys() & known.keys()
    else:
        changed = [raw for name, raw in wanted.items() if name not in known or known[name].raw != raw]
        gone = known.keys() - wanted.keys() if exclusive else set()
    differing = gone | {raw["name"] for raw in changed}
    return Difference(changed, gone, {name: one for name, one in known.items() if name not in differing})


def remember(
    settings: str,
    services: Iterable[Any],
    held: Mapping[str, Observed],
    layout: Layout,
    kept: Mapping[str, Known],
    samples: list[Any],
) -> Memory:
    """What is held once a run is done. services: as users write them. kept: services of which it holds no chains."""
    raws = {raw["name"]: raw for raw in services}
    found: dict[str, Known] = dict(kept)
    for family, one in held.items():
        for name, chains in _chains_by_owner(one, layout).items():
            known = found.setdefault(name, Known(raws.get(name), {}, [], []))
            rules = [rule for chain in chains for rule in one.chains["nat", chain]]
            if known.raw is None:
                known.chains[family] = chains
            known.backends.extend(translated_to(rules))
            known.sets.extend(sorted(layout.affinity_sets(rules)))
    shared = {family: Observed(_shared(one.chains, layout), dict(one.hooks)) for family, one in held.items()}
    in_shared = {owner_of(rule) or "" for one in shared.values() for rules in one.chains.values() for rule in rules}
    for name in (in_shared | raws.keys()) - found.keys() - {""}:
        found[name] = Known(raws.get(name), {}, [], [])
    return Memory(settings, found, shared, samples)


def brief(memory: Memory) -> Brief:
    """The short form."""
    has_udp = any(
        "-p udp " in rule for one in memory.shared.values() for rules in one.chains.values() for rule in rules
    )
    return Brief(memory.settings, memory.samples, has_udp)


def brief_from_plain(plain: Mapping[str, Any]) -> Brief | None:
    """From ``brief(memory)._asdict()`` after JSON; None for what it never made."""
    try:
        return Brief(str(plain["settings"]), list(plain["samples"]), bool(plain["has_udp"]))
    except (KeyError, TypeError):
        return None


def to_json(memory: Memory) -> str:
    """As one text."""
    shared = {
        family: [[[*key, list(rules)] for key, rules in part.items()] for part in (one.chains, one.hooks)]
        for family, one in memory.shared.items()
    }
    return json.dumps([memory.settings, memory.services, shared, memory.samples], separators=(",", ":"))


def from_json(text: str) -> Memory | None:
    """The reverse of `to_json`; None for what it never made."""
    try:
        settings, known, plain, samples_of_all = json.loads(text)
        shared = {
            family: Observed(*({(table, chain): rules for table, chain, rules in part} for part in parts))
            for family, parts in plain.items()
        }
        services = {name: Known(*one) for name, one in known.items()}
        return Memory(settings, services, shared, samples_of_all)
    except (TypeError, ValueError, AttributeError):
        return None


def _chains_by_owner(one: Observed, layout: Layout) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, rules in one.chains.items():
        owner = owner_of(rules[0]) if rules and layout.is_per_service(key) else None
        if owner:
            found.setdefault(owner, []).append(key[1])
    return found


def _shared(chains: Mapping[ChainKey, Rules], layout: Layout) -> dict[ChainKey, Rules]:
    return {key: rules for key, rules in chains.items() if not layout.is_per_service(key)}


def samples(raws: Sequence[Any]) -> list[Any]:
    """All when they are few, else at least one of those that differ in their keys, protocol, policies or networks."""
    if len(raws) <= _MOST_SAMPLES:
        return list(raws)
    found: dict[str, Any] = {}
    for raw in raws:
        kind = {key: value for key, value in raw.items() if isinstance(value, str) and key not in ("name", "vip")}
        found.setdefault(digest([kind, sorted(raw), _networks(raw)]), raw)
    return list(found.values())[:_MOST_SAMPLES]


def _networks(raw: Mapping[str, Any]) -> list[str]:
    given = raw.get("vip", [])
    addresses = [given] if isinstance(given, str) else given
    return sorted({".".join(str(address).split(".")[:_NETWORK_PARTS]) for address in addresses or []})
