# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of the iptables dataplane: read from the kernel, or known from what the last run left (`cache_file`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Callable

from ..._kernel.iptables import Xtables
from ..._kernel.rules_state import TABLES
from ..._model import addresses as ip
from ..._model.conflicts import BackendOf
from ..._model.families import service_families
from ..._model.raw import backends_of
from ..._model.request import Request
from ..._model.service import InvalidServices, Node, parse_services
from ..._model.service_facts import ServiceFacts
from ..._objects.iptables import COMMANDS, ChainKey, Observed, Rules
from ..._objects.iptables_text import XtablesError, parse_save
from ..interface import Host, Observation
from ..netfilter.facilities import HeldFamilies, pick, tables
from ..netfilter.masquerade import masquerade_chains
from ..netfilter.names import Layout
from . import cache
from .cache import CachedService, CachedState, Difference
from .cache_file import Store
from .compile import compile_service
from .readback import backends_in
from .shared_chains import hook_jumps

_MOST_CHAINS = 400
"""Reading so many chains one by one takes as long as reading some thousand services whole."""


class State:
    """What is held, read when it is asked for first."""

    def __init__(
        self, read: Callable[[], Mapping[str, Observed]], store: Store, kept: Mapping[str, CachedService] | None = None
    ) -> None:
        self._read = read
        self.store = store
        self.kept = kept or {}
        """Services that are as asked for, of which `families` have no chains."""
        self.is_unchanged = False
        """Whether everything is as asked for; then `families` have but the built-in chains."""

    @cached_property
    def families(self) -> Mapping[str, Observed]:
        """By address family. Raises XtablesError."""
        return self._read()

    def backends(self, family: str) -> Iterator[str]:
        """Yield the addresses of backends of `kept` in one family, some of them several times."""
        has_colons = family == ip.IPV6
        return (address for known in self.kept.values() for address in known.backends if (":" in address) is has_colons)

    def backends_at(self, endpoints: Collection[tuple[str, str, int]]) -> Iterator[BackendOf]:
        """Yield which of these protocols, addresses and ports are backends, of `kept` too. Raises XtablesError."""
        for held in self.families.values():
            for rules in held.chains.values():
                yield from backends_in(rules, endpoints)
        addresses = {address for dummy, address, dummy2 in endpoints}
        for known in self.kept.values():
            if addresses.isdisjoint(known.backends):
                continue
            if known.raw is not None:
                yield from (one for one in backends_of(known.raw) if one[1:] in endpoints)
            for family, chains in known.chains.items():
                for chain in chains:
                    yield from backends_in(self.store.list_chain(family, chain) or (), endpoints)

    @property
    def sets(self) -> set[str]:
        """Names of ipsets of `kept`."""
        return {name for known in self.kept.values() for name in known.sets}


def observe(host: Host, node: Node, request: Request) -> Observation:
    """Return what is held and what is left to do: of the whole request, or of what differs from what the last run was given."""
    store = Store(host, node, request)
    if store.load():
        try:
            found = _unchanged(store) or _narrowed(store, node)
            if found:
                return found
        except (InvalidServices, XtablesError):
            pass
    layout = Layout(node.chain_prefix)
    state = State(lambda: HeldFamilies(host.facility(tables), lambda tool: read(tool, layout)), store)
    return Observation(request, state, foreign_chains=store.foreign_chains)


def read(tool: Xtables, layout: Layout) -> Observed:
    """Return our chains, and the chains of others in which our jumps stand. Raises XtablesError."""
    held: dict[ChainKey, Rules] = {
        (table, chain): rules for table in TABLES for chain, rules in parse_save(tool.save(table)).items()
    }
    return pick(held, layout.is_ours, {(jump.table, jump.hook) for jump in hook_jumps(layout)})


def _unchanged(store: Store) -> Observation | None:
    """Return the observation of a run that is asked for what the last was, where no rule has changed."""
    header = store.header
    if header is None or header.request != store.asked or header.has_udp or (hooks := store.hooks()) != header.hooks:
        return None
    state = State(lambda: {family: Observed({}, dict(chains)) for family, chains in hooks.items()}, store)
    state.is_unchanged = True
    nothing = store.request._replace(services=(), exclusive=False)
    return Observation(nothing, state, header.facts, store.foreign_chains)


def _narrowed(store: Store, node: Node) -> Observation | None:
    """Return the observation of the services that differ; None where the whole is no more work, or is needed."""
    cached, request = store.rest(), store.request
    found = cached and cache.difference(cached, request.state, request.services, request.exclusive)
    if not cached or not found or set(cached.shared) != set(COMMANDS):
        return None
    if _keeps_chains(cached, node):
        return None
    families = _held(found, cached, node, store)
    if families is None:
        return None
    present = request.state == "present"
    asked = {raw["name"] for raw in request.services}
    kept = [one for name, one in found.kept.items() if name in asked] if present else []
    narrower = request._replace(
        services=found.changed,
        exclusive=request.exclusive and not present,
        removed=frozenset(found.removed),
        unchanged=[raw for raw in request.services if raw.get("protocol") == "udp" and raw["name"] in found.kept]
        if present
        else (),
    )
    state = State(lambda: families, store, found.kept)
    return Observation(narrower, state, cache.all_facts(kept) if kept else ServiceFacts(), store.foreign_chains)


def _keeps_chains(cached: CachedState, node: Node) -> bool:
    """Whether a service is left from other settings of the node, and needs a chain that those of now do not make."""
    layout = Layout(node.chain_prefix)
    marks, hairpin = (("nat", layout.shared(name)) for name in ("MARK-NONLOCAL", "HAIRPIN"))
    return any(
        (marks in one.chains and marks not in masquerade_chains(layout, node, family))
        or (hairpin in one.chains and node.backend_chains)
        for family, one in cached.shared.items()
    )


def _held(found: Difference, cached: CachedState, node: Node, store: Store) -> dict[str, Observed] | None:
    """Return the chains that serve all, and those of the services that differ: what was compiled is what is held.

    None where those that have to be read are many, or one is not there.
    """
    known = [cached.services[name] for name in found.names if name in cached.services]
    unwritten = [
        (family, chain) for one in known if one.raw is None for family in one.chains for chain in one.chains[family]
    ]
    if len(unwritten) > _MOST_CHAINS:
        return None
    hooks = store.hooks()
    families = {family: Observed(dict(one.chains), dict(hooks[family])) for family, one in cached.shared.items()}
    for service in parse_services([one.raw for one in known if one.raw is not None], node):
        for family in service_families(service, node):
            families[family].chains.update(compile_service(service, node, family).chains)
    for family, chain in unwritten:
        rules = store.list_chain(family, chain)
        if rules is None:
            return None
        families[family].chains["nat", chain] = rules
    return families
