# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nftables without a kernel: the interface of `_kernel.nftables.Nftables` over tables in memory.

It takes in the messages that would go to the kernel, and refuses what the kernel refuses: what is not there or there already, what is
named and not there, what is in use. Like kernels before 6.2 it holds a chain until the transaction is done that removes the last
element leading to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import nftables_answers as answers
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import nftables_messages as wire
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import attributes
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables_decoding import to_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Chain,
    Element,
    Elements,
    Flowtable,
    Rule,
    Set,
    SetHeader,
    Table,
    Verdict,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    NftChange,
    NftChangedError,
    NftRefusedError,
    TableId,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import table_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import names_in

_FAMILIES = {2: "ip", 10: "ip6"}
Fields = dict[int, bytes]


@dataclass
class _Held:
    """A table, while it is changed."""

    comment: str
    sets: dict[str, Set] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    flowtables: dict[str, Flowtable] = field(default_factory=dict)
    is_dormant: bool = False
    led_to: set[str] = field(default_factory=set)  # chains that elements lead to, or led to before the transaction

    def table(self, one: TableId) -> Table:
        sets = {name: Set(held.header, dict(held.elements)) for name, held in self.sets.items()}
        return Table(
            one.family, one.name, sets, dict(self.chains), dict(self.flowtables), self.comment, self.is_dormant
        )


class FakeNftables:
    """tables: what is there. transactions: how many have been made. states: what was held after each."""

    def __init__(self, tables: Mapping[TableId, Table] | None = None, limit: int = 1 << 30) -> None:
        self._held: dict[TableId, _Held] = {}
        for one, table in (tables or {}).items():
            sets = {name: Set(held.header, dict(held.elements)) for name, held in table.sets.items()}
            self._held[one] = _Held(table.comment, sets, dict(table.chains), dict(table.flowtables), table.is_dormant)
        self.limit = limit
        self.transactions = 0
        self.states: list[dict[TableId, Table]] = []

    def __enter__(self) -> FakeNftables:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def generation(self) -> int:
        return self.transactions

    def send_limit(self) -> int:
        return self.limit

    def names(self, table: TableId) -> set[str]:
        held = self._held[table]
        return {*held.chains, *held.sets, *held.flowtables}

    def flowtables(self, table: TableId) -> dict[str, Flowtable]:
        return self._held[table].flowtables if table in self._held else {}

    def tables(
        self, wanted: Iterable[TableId], is_meant: Callable[[str], bool] = bool
    ) -> tuple[dict[TableId, Table], int]:
        found = {one: self._held[one].table(one) for one in wanted if one in self._held}
        for table in found.values():
            for named in (table.sets, table.chains, table.flowtables):
                for name in [name for name in named if not is_meant(name)]:
                    del named[name]
        return found, self.generation()

    def elements(self, table: TableId, name: str, dummy: SetHeader) -> Elements:
        return self._held[table].sets[name].elements if table in self._held and name in self._held[table].sets else {}

    def dump(self) -> str:
        """Return all tables as nft(8) lists them."""
        return "\n".join(table_text(held.table(one)) for one, held in sorted(self._held.items()))

    def apply(self, changes: Sequence[NftChange], generation: int | None = None) -> None:
        if generation not in (None, self.generation()):
            raise NftChangedError("the generation is another")
        before = copy.deepcopy(self._held)
        for held in self._held.values():
            held.led_to = _led_to(held)
        try:
            for change in changes:
                for message in wire.encode_change(change):
                    self._take(message.kind, message.payload)
        except NftRefusedError:
            self._held = before
            raise
        self.transactions += 1
        self.states.append({one: held.table(one) for one, held in self._held.items()})

    def _take(self, kind: int, payload: bytes) -> None:
        fields = attributes(payload[4:])
        one = TableId(_FAMILIES[payload[0]], answers.name_of(fields, wire.NAME_OF_TABLE))
        if kind == wire.NEW_TABLE:
            self._held.setdefault(one, _Held(answers.comment_of_table(fields))).is_dormant = answers.is_dormant(fields)
            return
        held = _there(self._held, one)
        if kind == wire.DELETE_TABLE:
            del self._held[one]
        else:
            _TAKERS[kind](held, fields, one.family)


def _led_to(held: _Held) -> set[str]:
    return {chain for one in held.sets.values() for chain in _targets(one.elements)}


def _targets(elements: Elements) -> set[str]:
    data = [element.data for element in elements.values()]
    return {one.chain for one in data if isinstance(one, Verdict) and one.chain}


def _there(held: Mapping[Any, Any], name: object) -> Any:
    if name not in held:
        raise NftRefusedError(f"{name} is not there")
    return held[name]


def _not_there(held: Mapping[Any, Any], name: Any) -> Any:
    if name in held:
        raise NftRefusedError(f"{name} is there already")
    return name


def _unused(held: _Held, name: str) -> str:
    if any(name in names_in(rule) for chain in held.chains.values() for rule in chain.rules):
        raise NftRefusedError(f"{name} is in use by a rule")
    return name


def _new_chain(held: _Held, fields: Fields, dummy: str) -> None:
    held.chains[_not_there(held.chains, answers.name_of(fields, wire.CHAIN_NAME))] = answers.decode_chain(fields)


def _delete_chain(held: _Held, fields: Fields, dummy: str) -> None:
    name = _unused(held, answers.name_of(fields, wire.CHAIN_NAME))
    if _there(held.chains, name).rules or name in held.led_to | _led_to(held):
        raise NftRefusedError(f"{name} is in use")
    del held.chains[name]


def _new_rule(held: _Held, fields: Fields, family: str) -> None:
    name = answers.name_of(fields)
    chain, rule = _there(held.chains, name), answers.decode_rule_of(fields, family)
    for other in names_in(rule):
        _there({**held.chains, **held.sets, **held.flowtables}, other)
    held.chains[name] = chain._replace(rules=(*chain.rules, Rule(*rule)))


def _delete_rules(held: _Held, fields: Fields, dummy: str) -> None:
    name = answers.name_of(fields)
    held.chains[name] = _there(held.chains, name)._replace(rules=())


def _new_set(held: _Held, fields: Fields, dummy: str) -> None:
    held.sets[_not_there(held.sets, answers.name_of(fields))] = Set(answers.decode_header(fields), {})


def _delete_set(held: _Held, fields: Fields, dummy: str) -> None:
    name = _unused(held, answers.name_of(fields))
    _there(held.sets, name)
    del held.sets[name]


def _new_elements(held: _Held, fields: Fields, dummy: str) -> None:
    header, elements = _there(held.sets, answers.name_of(fields))
    for key, element in _decoded(header, fields).items():
        _not_there(elements, key)
        elements[key] = element
    for chain in _targets(elements):
        _there(held.chains, chain)


def _delete_elements(held: _Held, fields: Fields, dummy: str) -> None:
    header, elements = _there(held.sets, answers.name_of(fields))
    for key in _decoded(header, fields):
        _there(elements, key)
        del elements[key]


def _decoded(header: SetHeader, fields: Fields) -> dict[bytes, Element]:
    return answers.decode_elements(header, [fields[wire.ELEMENTS]])


def _new_flowtable(held: _Held, fields: Fields, dummy: str) -> None:
    held.flowtables[_not_there(held.flowtables, answers.name_of(fields))] = answers.decode_flowtable(fields)


def _delete_flowtable(held: _Held, fields: Fields, dummy: str) -> None:
    name = _unused(held, to_text(fields[wire.NAME_IN_TABLE]))
    _there(held.flowtables, name)
    del held.flowtables[name]


_TAKERS: dict[int, Callable[[_Held, Fields, str], None]] = {
    wire.NEW_CHAIN: _new_chain,
    wire.DELETE_CHAIN: _delete_chain,
    wire.NEW_RULE: _new_rule,
    wire.DELETE_RULE: _delete_rules,
    wire.NEW_SET: _new_set,
    wire.DELETE_SET: _delete_set,
    wire.NEW_ELEMENT: _new_elements,
    wire.DELETE_ELEMENT: _delete_elements,
    wire.NEW_FLOWTABLE: _new_flowtable,
    wire.DELETE_FLOWTABLE: _delete_flowtable,
}
