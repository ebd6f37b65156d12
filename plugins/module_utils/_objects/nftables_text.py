# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of tables of nftables and of what is in them, as ``nft list ruleset`` writes it and ``nft -f`` reads it. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial, singledispatch
from typing import Callable

from .nftables import (
    VERDICT,
    Bits,
    Chain,
    Counter,
    Element,
    FlowOffload,
    Flowtable,
    HasBits,
    Hook,
    InNetwork,
    InRange,
    InSet,
    Jhash,
    Key,
    Mapped,
    Masquerade,
    Match,
    Nat,
    Notrack,
    Numgen,
    Operand,
    Reject,
    Rule,
    Set,
    SetField,
    SetHeader,
    Statement,
    Table,
    Unknown,
    Update,
    Verdict,
    VerdictMap,
    type_of,
    types_of,
)
from .nftables_types import FIELDS, TYPES, interval_to_text, split, unpack

PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_WITHOUT_FIELDS: dict[type, str] = {Counter: "counter", Notrack: "notrack"}
_PROTOCOL, _PORT, _WITH_PORTS = "meta l4proto ", "th ", ("tcp", "udp", "sctp")
"""nft(8) writes a port behind its protocol as one: ``tcp dport 80``."""
_NEAR = 10
"""How far from a named priority nft(8) still counts from it."""
_MILLISECONDS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


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


def duration(milliseconds: int) -> str:
    """Return a time as nft(8) writes it: ``1h30m``."""
    text = ""
    for unit, size in _MILLISECONDS:
        count, milliseconds = divmod(milliseconds, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def rule_text(rule: Rule) -> str:
    """Return a rule as it stands in its chain."""
    words: list[str] = []
    for statement in rule.statements:
        text = statement_text(statement)
        protocol = words[-1][len(_PROTOCOL) :] if words and words[-1].startswith(_PROTOCOL) else ""
        if protocol in _WITH_PORTS and text.startswith(_PORT):
            words[-1] = f"{protocol} {text[len(_PORT) :]}"
        else:
            words.append(text)
    return " ".join(words + ([f'comment "{rule.comment}"'] if rule.comment else []))


def key_text(key: Key) -> str:
    return " . ".join([operand_text(operand) for operand in key])


def operand_text(operand: Operand) -> str:
    if isinstance(operand, Numgen):
        return f"numgen {operand.mode} mod {operand.modulus}" + _offset(operand.offset)
    if isinstance(operand, Jhash):
        seed = "" if operand.seed is None else f" seed 0x{operand.seed:x}"
        return f"jhash {key_text(operand.fields)} mod {operand.modulus}{seed}" + _offset(operand.offset)
    if isinstance(operand, Bits):
        return _bits_text(operand)
    return operand


def _offset(offset: int) -> str:
    return f" offset {offset}" if offset else ""


def _bits_text(bits: Bits) -> str:
    """Return the operation on bits; ``or`` is a mask without the bits and an exclusive or with them."""
    write = TYPES[FIELDS[bits.field]].to_text
    mask, xor = int.from_bytes(bits.mask, sys.byteorder), int.from_bytes(bits.xor, sys.byteorder)
    everything = (1 << 8 * len(bits.mask)) - 1
    if not xor:
        words = write(bits.mask).split(",")
        return f"{bits.field} & {words[0] if len(words) == 1 else '(' + ' | '.join(words) + ')'}"
    if mask == everything:
        return f"{bits.field} ^ {write(bits.xor)}"
    if mask == everything ^ xor:
        return f"{bits.field} | {write(bits.xor)}"
    return f"{bits.field} & {write(bits.mask)} ^ {write(bits.xor)}"


@singledispatch
def statement_text(statement: Statement) -> str:
    return _WITHOUT_FIELDS[type(statement)]


@statement_text.register
def _match(statement: Match) -> str:
    value = unpack(type_of(statement.field), statement.value)
    is_plain = statement.operator == "==" and not isinstance(statement.field, Bits)
    return f"{operand_text(statement.field)} {'' if is_plain else statement.operator + ' '}{value}"


@statement_text.register
def _in_network(statement: InNetwork) -> str:
    address = unpack(type_of(statement.field), statement.address)
    return f"{statement.field} {'!= ' if statement.inverted else ''}{address}/{statement.length}"


@statement_text.register
def _has_bits(statement: HasBits) -> str:
    return f"{statement.field} {'! ' if statement.inverted else ''}{unpack(FIELDS[statement.field], statement.bits)}"


@statement_text.register
def _in_range(statement: InRange) -> str:
    low, high = (unpack(type_of(statement.field), value) for value in (statement.low, statement.high))
    return f"{operand_text(statement.field)} {'!= ' if statement.inverted else ''}{low}-{high}"


@statement_text.register
def _in_set(statement: InSet) -> str:
    return f"{key_text(statement.key)} {'!= ' if statement.inverted else ''}@{statement.set}"


@statement_text.register
def _verdict(statement: Verdict) -> str:
    return f"{statement.action} {statement.chain}" if statement.chain else statement.action


@statement_text.register
def _verdict_map(statement: VerdictMap) -> str:
    return f"{key_text(statement.key)} vmap @{statement.map}"


@statement_text.register
def _nat(statement: Nat) -> str:
    if isinstance(statement.address, Mapped):
        family = f" {statement.family}" if statement.port else ""
        target = f"{family} to {_mapped_text(statement.address)}"
    else:
        address = TYPES[_address_type(statement.address)].to_text(statement.address)
        has_port = isinstance(statement.port, bytes)
        brackets = has_port and ":" in address
        target = f" to [{address}]" if brackets else f" to {address}"
        target += f":{unpack('inet_service', statement.port)}" if isinstance(statement.port, bytes) else ""
    return f"{statement.kind}{target}" + _flags(statement.flags)


def _address_type(address: bytes) -> str:
    return "ipv4_addr" if len(address) == 4 else "ipv6_addr"


def _mapped_text(mapped: Mapped) -> str:
    return f"{key_text(mapped.key)} map @{mapped.map}"


def _flags(flags: tuple[str, ...]) -> str:
    return f" {','.join(flags)}" if flags else ""


@statement_text.register
def _masquerade(statement: Masquerade) -> str:
    return "masquerade" + _flags(statement.flags)


@statement_text.register
def _reject(statement: Reject) -> str:
    return "reject with tcp reset" if statement.tcp_reset else "reject"


@statement_text.register
def _set_field(statement: SetField) -> str:
    return f"{statement.field} set {_value_text(FIELDS[statement.field], statement.value)}"


def _value_text(type_name: str, value: bytes | Operand | Mapped) -> str:
    if isinstance(value, bytes):
        return unpack(type_name, value)
    return _mapped_text(value) if isinstance(value, Mapped) else operand_text(value)


@statement_text.register
def _update(statement: Update) -> str:
    element = key_text(statement.key)
    if statement.timeout:
        element += f" timeout {duration(statement.timeout)}"
    if statement.data:
        element += " : " + " . ".join([_data_text(part) for part in statement.data])
    return f"{statement.operation} @{statement.set} {{ {element} }}"


def _data_text(part: Operand | bytes) -> str:
    """Return a part of an element's data; a constant by its length: an address, a port, a number of one byte."""
    if not isinstance(part, bytes):
        return operand_text(part)
    types = {1: "inet_proto", 2: "inet_service", 4: "ipv4_addr", 16: "ipv6_addr"}
    return unpack(types[len(part)], part)


@statement_text.register
def _flow_offload(statement: FlowOffload) -> str:
    return f"flow add @{statement.flowtable}"


@statement_text.register
def _unknown(statement: Unknown) -> str:
    return f"[ {statement.name} {statement.content.hex()} ]"
