# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of rules of nftables and of their statements, as ``nft list ruleset`` writes it and ``nft -f`` reads it. Pure."""

from __future__ import annotations

import sys
from functools import singledispatch

from .nftables import (
    Bits,
    Counter,
    FlowOffload,
    HasBits,
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
    SetField,
    Statement,
    Unknown,
    Update,
    Verdict,
    VerdictMap,
    type_of,
)
from .nftables_types import FIELDS, TYPES, unpack

_WITHOUT_FIELDS: dict[type, str] = {Counter: "counter", Notrack: "notrack"}
_PROTOCOL, _PORT, _WITH_PORTS = "meta l4proto ", "th ", ("tcp", "udp", "sctp")
"""nft(8) writes a port behind its protocol as one: ``tcp dport 80``."""
_MILLISECONDS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


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
