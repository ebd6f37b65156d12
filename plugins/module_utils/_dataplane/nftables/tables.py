# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables that hold the elements of services, with all that these lead to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.nftables import (
    Chain,
    Element,
    Elements,
    InSet,
    Mapped,
    Nat,
    Set,
    SetField,
    Table,
    Update,
    Verdict,
    VerdictMap,
)
from ..._objects.nftables_parts import TABLES
from . import maps
from .chains import ChainMaker
from .compile import collapsed
from .maps import BY_ADDRESS, FRONTS, Maps
from .offload import flowtables, offload_chains

_NOTHING = Element()


def make_table(services: Maps, node: Node, family: str, shared: Mapping[str, Elements] | None = None) -> Table:
    """Return the table that has these elements of services, and no chain, map or set that nothing leads to.

    shared: elements of no single service that it has for the sake of others.
    """
    common = _shared(services, node, family)
    for name, elements in (shared or {}).items():
        common[name].update(elements)
    return _TableMaker({**services, **common}, node, family).table()


def guards_localhost(node: Node, family: str) -> bool:
    """Whether a family needs its table without services, too: route_localnet may be on as long as the node's setting asks for it."""
    return node.localhost_node_ports and family == ip.IPV4


class _TableMaker:
    """Follows what leads on from the base chains."""

    def __init__(self, elements: Maps, node: Node, family: str) -> None:
        self._elements, self._node, self._family = elements, node, family
        self._maker = ChainMaker(node, family)
        self._headers = maps.headers(family, node.counters)
        self._chains: dict[str, Chain] = {}
        self._sets: dict[str, Set] = {}

    def table(self) -> Table:
        has_affinity = any(self._elements.get(front.affinity) for front in FRONTS)
        base_chains = {**self._maker.base_chains(has_affinity), **offload_chains(self._node, self._family)}
        for name, chain in base_chains.items():
            self._add_chain(name, chain)
        sets, chains = dict(sorted(self._sets.items())), dict(sorted(self._chains.items()))
        return Table(*TABLES[self._family], sets, chains, flowtables(self._node))

    def _add_chain(self, name: str, chain: Chain | None) -> None:
        if chain is None or name in self._chains:
            return
        self._chains[name] = chain
        for found in _led_to(chain):
            if isinstance(found, Verdict):
                self._follow(found)
            elif found not in self._sets:
                self._add_set(found)

    def _add_set(self, name: str) -> None:
        elements = self._elements.get(name, {})
        self._sets[name] = Set(self._headers[name], elements)
        if name in maps.VERDICT_MAPS:
            for verdict in {element.data for element in elements.values()}:
                if isinstance(verdict, Verdict):
                    self._follow(verdict)

    def _follow(self, verdict: Verdict) -> None:
        if verdict.chain and verdict.chain not in self._chains:
            self._add_chain(verdict.chain, self._maker.make(verdict.chain))


def _led_to(chain: Chain) -> Iterator[str | Verdict]:
    """The sets and maps that the rules of a chain name, and the verdicts that they have."""
    for rule in chain.rules:
        for statement in rule.statements:
            if isinstance(statement, Verdict):
                yield statement
            elif isinstance(statement, VerdictMap):
                yield statement.map
            elif isinstance(statement, (InSet, Update)):
                yield statement.set
            elif isinstance(statement, (Nat, SetField)):
                mapped = statement.address if isinstance(statement, Nat) else statement.value
                if isinstance(mapped, Mapped):
                    yield mapped.map


def _shared(services: Maps, node: Node, family: str) -> Maps:
    """The elements that are of no single service, in the same order in each process, for the sake of boot files."""
    return {
        maps.LOCAL_SOURCES: _networks(node.local_cidrs, family),
        maps.NODE_PORT_ADDRESSES: _networks(node.node_port_addresses, family),
        maps.HAIRPIN: dict.fromkeys([address + address for address in sorted(backends_of(services, family))], _NOTHING),
        maps.SERVICE_ADDRESSES: dict.fromkeys(sorted(_service_addresses(services, family)), _NOTHING),
    }


def _networks(cidrs: Iterable[str], family: str) -> Elements:
    own = [cidr for cidr in cidrs if ip.family_of(cidr) == family]
    return {first + last: _NOTHING for first, last in collapsed(own)}


def backends_of(services: Mapping[str, Elements], family: str) -> Counter[bytes]:
    """Return the addresses of backends, and how many elements lead to each."""
    size = ip.bits(family) // 8
    named = [maps.AFFINITY_BACKENDS, *(name for front in FRONTS for name in (front.endpoints, front.local_endpoints))]
    endpoints = (element.data for name in named for element in services.get(name, {}).values())
    return Counter([endpoint[:size] for endpoint in endpoints if isinstance(endpoint, bytes)])


def _service_addresses(services: Mapping[str, Elements], family: str) -> set[bytes]:
    size = ip.bits(family) // 8
    return {key[:size] for key in services.get(BY_ADDRESS.services, {})}
