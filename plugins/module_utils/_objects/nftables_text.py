# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of tables of nftables, as ``nft list ruleset`` writes it and ``nft -f`` reads it; `nftables_rule_text` has that of rules. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .nftables import (
    VERDICT,
    Chain,
    Element,
    Elements,
    Flowtable,
    Hook,
    Set,
    SetHeader,
    Table,
    types_of,
)
from .nftables_rule_text import duration, operand_text, rule_text, statement_text
from .nftables_types import TYPES, interval_to_text, split

PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_NEAR = 10
"""How far from a named priority nft(8) still counts from it."""


def table_text(table: Table) -> str:
    """Return the whole table."""
    return "".join(line + "\n" for line in _block(f"table {table.family} {table.name}", _table_lines(table)))


def _table_lines(table: Table) -> Iterator[str]:
    if table.comment:
        yield f'comment "{table.comment}"'
    if table.is_dormant:
        yield "flags dormant"
    blocks: list[Sequence[str]] = [set_lines(name, one) for name, one in table.sets.items()]
    blocks += [list(flowtable_lines(name, one)) for name, one in table.flowtables.items()]
    blocks += [chain_lines(name, chain) for name, chain in table.chains.items()]
    for index, block in enumerate(blocks):
        if index:
            yield ""
        yield from block


def _block(head: str, lines: Iterator[str] | Sequence[str]) -> list[str]:
    return [f"{head} {{", *("\t" + line if line else line for line in lines), "}"]


def set_lines(name: str, held: Set) -> list[str]:
    """Return a set or map with its elements."""
    lines = header_lines(held.header)
    if held.elements:
        texts = sorted_elements(held.header, held.elements)
        lines.append(f"elements = {{ {texts[0]}" + (" }" if len(texts) == 1 else ","))
        lines += ["\t     " + text + "," for text in texts[1:-1]]
        lines += ["\t     " + texts[-1] + " }"] if len(texts) > 1 else []
    return _block(f"{kind_of(held.header)} {name}", lines)


def kind_of(header: SetHeader) -> str:
    return "map" if header.data else "set"


def header_lines(header: SetHeader) -> list[str]:
    """Return what is said of a set or map beside its elements."""
    names = [operand_text(operand) for operand in header.key]
    data = [operand_text(operand) for operand in header.data]
    keyword = "type" if all(name in TYPES for name in names) else "typeof"
    lines = [f"{keyword} {' . '.join(names)}" + (f" : {' . '.join(data)}" if data else "")]
    if header.size:
        lines.append(f"size {header.size}")
    if header.flags and not (header.timeout and header.flags == ("timeout",)):
        lines.append(f"flags {','.join(header.flags)}")
    if header.timeout:
        lines.append(f"timeout {duration(header.timeout)}")
    if header.counter:
        lines.append("counter")
    if header.comment:
        lines.append(f'comment "{header.comment}"')
    return lines


def header_words(header: SetHeader) -> str:
    """Return the same in one line."""
    return "{ " + " ".join(f"{line};" for line in header_lines(header)) + " }"


def sorted_elements(header: SetHeader, elements: Elements) -> list[str]:
    """Return the texts of elements in the order of their keys; part by part for all of them, since there may be a million."""
    keys = sorted(elements)
    found = [elements[key] for key in keys]
    remarks = [_remarks(one.comment, one.timeout) if one.comment or one.timeout else "" for one in found]
    texts = map(str.__add__, _key_texts(header, keys), remarks)
    return [f"{text} : {data}" for text, data in zip(texts, _data_texts(header, found))] if header.data else list(texts)


def _remarks(comment: str, timeout: int) -> str:
    return (f" timeout {duration(timeout)}" if timeout else "") + (f' comment "{comment}"' if comment else "")


def _key_texts(header: SetHeader, keys: Sequence[bytes]) -> list[str]:
    """Return the texts of keys in their order; an empty one, which is the first then, stands for all that have no element of their own."""
    if keys and not keys[0]:
        return ["*", *_key_texts(header, keys[1:])]
    types = types_of(header.key)
    if "interval" in header.flags:
        return [_interval_text(types, key) for key in keys]
    return _concatenation_texts(types, keys)


def _data_texts(header: SetHeader, elements: Sequence[Element]) -> Iterable[str]:
    values: list[Any] = [one.data for one in elements]
    if header.data != (VERDICT,):
        return _concatenation_texts(types_of(header.data), values)
    texts = {verdict: statement_text(verdict) for verdict in set(values)}
    return [texts[verdict] for verdict in values]


def _concatenation_texts(types: Sequence[str], values: Sequence[bytes]) -> list[str]:
    """Return the texts of values of these types that stand one behind the other."""
    columns, offset = [], 0
    for name in types:
        part = slice(offset, offset + TYPES[name].size)
        columns.append(map(TYPES[name].to_text, [value[part] for value in values]))
        offset += TYPES[name].size + -TYPES[name].size % 4
    return list(map(" . ".join, zip(*columns)))


def concatenation_text(types: Sequence[str], value: bytes) -> str:
    """Return the text of one such value."""
    return _concatenation_texts(types, [value])[0]


def _interval_text(types: Sequence[str], key: bytes) -> str:
    half = len(key) // 2
    bounds = zip(types, split(types, key[:half]), split(types, key[half:]))
    return " . ".join([interval_to_text(*bound) for bound in bounds])


def flowtable_lines(name: str, flowtable: Flowtable) -> list[str]:
    return _block(f"flowtable {name}", _flowtable_lines(flowtable))


def flowtable_words(flowtable: Flowtable) -> str:
    """Return the same in one line."""
    return "{ " + " ".join(f"{line};" for line in _flowtable_lines(flowtable)) + " }"


def _flowtable_lines(flowtable: Flowtable) -> list[str]:
    hook = f"hook ingress priority {priority_text(flowtable.priority)}"
    return [hook, f"devices = {{ {', '.join(flowtable.devices)} }}"]


def chain_lines(name: str, chain: Chain) -> list[str]:
    """Return a chain with its rules."""
    return _block(f"chain {name}", [*_chain_lines(chain), *(rule_text(rule) for rule in chain.rules)])


def chain_words(chain: Chain) -> str:
    """Return what is said of a chain beside its rules, in one line; nothing of a regular one without a comment."""
    lines = [line if line.endswith(";") else f"{line};" for line in _chain_lines(chain)]
    return f"{{ {' '.join(lines)} }}" if lines else ""


def _chain_lines(chain: Chain) -> list[str]:
    comment = [f'comment "{chain.comment}"'] if chain.comment else []
    return comment + ([hook_text(chain.hook)] if chain.hook else [])


def hook_text(hook: Hook) -> str:
    return f"type {hook.type} hook {hook.name} priority {priority_text(hook.priority)}; policy {hook.policy};"


def priority_text(priority: int) -> str:
    for name, base in PRIORITIES.items():
        distance = priority - base
        if abs(distance) <= _NEAR:
            return f"{name} {'+' if distance > 0 else '-'} {abs(distance)}" if distance else name
    return str(priority)
