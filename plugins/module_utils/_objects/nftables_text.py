# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of tables of nftables, as ``nft list ruleset`` writes it and ``nft -f`` reads it; `nftables_rule_text` has that of rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Callable

from .nftables import (
    VERDICT,
    Chain,
    Element,
    Flowtable,
    Hook,
    Set,
    SetHeader,
    Table,
    Verdict,
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


def sorted_elements(header: SetHeader, elements: dict[bytes, Element]) -> list[str]:
    """Return the texts of elements in the order of their keys."""
    to_text = element_writer(header)
    return [to_text(key, elements[key]) for key in sorted(elements)]


def element_writer(header: SetHeader) -> Callable[[bytes, Element], str]:
    """Return what writes the elements of this set or map."""
    key_text = _key_writer(header)
    data_text = _data_writer(header)

    def to_text(key: bytes, element: Element) -> str:
        data, comment, timeout = element
        text = key_text(key)
        if timeout:
            text += f" timeout {duration(timeout)}"
        if comment:
            text += f' comment "{comment}"'
        return text if data is None else f"{text} : {data_text(data)}"

    return to_text


def _key_writer(header: SetHeader) -> Callable[[bytes], str]:
    types = types_of(header.key)
    return partial(_interval_text, types) if "interval" in header.flags else _concatenation_writer(types)


def _data_writer(header: SetHeader) -> Callable[[bytes | Verdict], str]:
    values = _concatenation_writer(() if header.data == (VERDICT,) else types_of(header.data))

    def to_text(data: bytes | Verdict) -> str:
        return statement_text(data) if isinstance(data, Verdict) else values(data)

    return to_text


def _concatenation_writer(types: Sequence[str]) -> Callable[[bytes], str]:
    """Return what writes values of these types that stand one behind the other; no value is any."""
    parts, offset = [], 0
    for name in types:
        size = TYPES[name].size
        parts.append((offset, offset + size, TYPES[name].to_text))
        offset += size + -size % 4

    def to_text(value: bytes) -> str:
        return " . ".join([write(value[start:end]) for start, end, write in parts]) if value else "*"

    return to_text


def concatenation_text(types: Sequence[str], value: bytes) -> str:
    return _concatenation_writer(types)(value)


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
