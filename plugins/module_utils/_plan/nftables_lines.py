# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of tables of nftables is not so in others, as commands that nft(8) takes: the lines of a diff. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .._objects.nftables import Chain, Set, Table
from .._objects.nftables_changes import TableId
from .._objects.nftables_rule_text import rule_text
from .._objects.nftables_text import chain_words, flowtable_words, header_words, kind_of, sorted_elements

_NOTHING = Table("", "", {}, {}, {})


def difference_text(tables: Mapping[TableId, Table], others: Mapping[TableId, Table]) -> str:
    """Return a line for each object and element that the others lack or have otherwise, by kind and name; rules in their order."""
    lines = [line for one in sorted(tables) for line in _table_lines(one, tables[one], others.get(one))]
    return "\n".join([*lines, ""])


def _table_lines(table: TableId, held: Table, other: Table | None) -> Iterator[str]:
    where = f"{table.family} {table.name}"
    if other is None or other.is_dormant != held.is_dormant:
        yield f"add table {where}" + (" { flags dormant; }" if held.is_dormant else "")
    other = other or _NOTHING
    for name, flowtable in sorted(held.flowtables.items()):
        if other.flowtables.get(name) != flowtable:
            yield f"add flowtable {where} {name} {flowtable_words(flowtable)}"
    for name, one in sorted(held.sets.items()):
        yield from _header_lines(where, name, one, other.sets.get(name))
    for name, chain in sorted(held.chains.items()):
        if name not in other.chains or other.chains[name].hook != chain.hook:
            yield f"add chain {where} {name} {chain_words(chain)}".rstrip()
    for name, one in sorted(held.sets.items()):
        yield from _element_lines(where, name, one, other.sets.get(name))
    for name, chain in sorted(held.chains.items()):
        yield from (f"add rule {where} {name} {text}" for text in _rules(chain, other.chains.get(name)))


def _header_lines(where: str, name: str, held: Set, other: Set | None) -> Iterator[str]:
    if other is None or other.header != held.header:
        yield f"add {kind_of(held.header)} {where} {name} {header_words(held.header)}"


def _element_lines(where: str, name: str, held: Set, other: Set | None) -> Iterator[str]:
    if held.header.is_filled_by_packets:
        return
    same = other.elements if other is not None and other.header == held.header else {}
    differing = {key: one for key, one in held.elements.items() if same.get(key) != one} if same else held.elements
    yield from [f"add element {where} {name} {{ {text} }}" for text in sorted_elements(held.header, differing)]


def _rules(chain: Chain, other: Chain | None) -> Sequence[str]:
    """Return the rules that the other chain lacks; where only their order differs, all of them."""
    texts = [rule_text(rule) for rule in chain.rules]
    others = [rule_text(rule) for rule in other.rules] if other else []
    missing, counts = [], Counter(others)
    for text in texts:
        counts[text] -= 1
        if counts[text] < 0:
            missing.append(text)
    return texts if not missing and len(texts) == len(others) and texts != others else missing
