# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node holds of the services that a run changes, known from what the last run was asked for, without reading it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._model.raw import backends_of, own_addresses_of
from ..._model.service import Node, Service, parse_services
from ..._objects.ipset import HeldSet
from ..._objects.node_facts import DeviceState
from ..interface import Host
from .compile import Frontends, bound_addresses, compile_frontends
from .host import State
from .ownership import virtual_services
from .sets import hairpins, wanted_sets
from .stages import StagedChains

_MOST_OTHERS = 1000
"""Services that are parsed to find out whether they share something; beyond that the whole is little more work."""


class Others(NamedTuple):
    """Of the services that stay as they are, those that share a backend or an address with those that differ."""

    frontends: Frontends
    addresses: frozenset[str]  # of backends that differ, those that one of the others has, too


NO_OTHERS = Others({}, frozenset())


class KnownState(State):
    """The part of a node's state that the services that differ have to themselves."""

    def __init__(self, host: Host, node: Node, had: Frontends, has: Frontends, others: Others = NO_OTHERS) -> None:
        """had, has: the services that differ, as they were and as they are to be."""
        super().__init__(host, node, needs_ipvs=True)
        self._had, self._others = had, others
        self.virtual = virtual_services(had)
        self.sets = _held_sets(had, has, others, node)
        bound = bound_addresses(had.values(), node)
        self.device = DeviceState("dummy", True, frozenset(bound)) if bound else None

    def touched(self) -> int:
        """Return what the virtual services that may change add to the fingerprint of all; to be asked before the run."""
        return self.ipvs.fingerprint(self.virtual)

    def plan_chains(self, dummy: Frontends) -> dict[str, StagedChains]:
        """No rule depends on the services that differ."""
        return {}

    def ours(self, dummy: Frontends) -> Frontends:
        return self._had

    def answering(self) -> Frontends:
        return {**self._others.frontends, **self._had}


def _held_sets(had: Frontends, has: Frontends, others: Others, node: Node) -> dict[str, HeldSet]:
    """The sets as if they held the entries of these services alone, with those that others need, too, whatever becomes of them."""
    wanted, shared = wanted_sets(has, node), hairpins(others.frontends.values())
    found = {}
    for name, one in wanted_sets(had, node).items():
        entries = {at: entry for at, entry in one.entries.items() if at in wanted[name].entries or at not in shared}
        entries.update((at, entry) for at, entry in wanted[name].entries.items() if at in shared)
        found[name] = HeldSet(one.header, 0, (), entries)
    return found


def others_that_matter(
    kept: Sequence[Mapping[str, Any]], before: Sequence[Service], after: Sequence[Service], node: Node
) -> Others | None:
    """Look among services that stay for those that have a backend that comes or goes, too, or answer at its address.

    Of those that have the same backend one is enough. None where too many have to be looked at.
    """
    missing = _endpoints(before) ^ _endpoints(after)
    addresses = {address for dummy, address, dummy2 in missing}
    found: list[Service] = []
    looked_at = 0
    seen: set[str] = set()
    for raw in kept:
        backends = [one[1:] for one in backends_of(raw) if one.address in addresses]
        seen.update(address for dummy, address, dummy2 in backends)
        if not missing.isdisjoint(backends) or not addresses.isdisjoint(own_addresses_of(raw)):
            looked_at += 1
            if looked_at > _MOST_OTHERS:
                return None
            one = parse_services([raw], node)
            found += one
            missing -= _endpoints(one)
    frontends = {key: one for service in found for key, one in compile_frontends([service], node).items()}
    return Others(frontends, frozenset(seen))


def _endpoints(services: Iterable[Service]) -> set[tuple[str, str, int]]:
    """The backends that IPVS has a destination for, whatever their weight."""
    return {
        (service.protocol, backend.address, backend.port)
        for service in services
        for backend in service.backends
        if backend.ready or backend.serving
    }
