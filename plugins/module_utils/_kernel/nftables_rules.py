# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Statements of rules as the expressions of the kernel (``linux/netfilter/nf_tables.h``).

The kernel computes in 16 registers of four bytes. A field is loaded into as many as it needs, the fields of a key one behind the other;
this is nft's own choice of registers too, so that a rule that went through its text is the same rule. `nftables_decoding` is the way back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import singledispatch

from .._objects.nftables import (
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
    SetField,
    Statement,
    Update,
    Verdict,
    VerdictMap,
    type_of,
)
from .._objects.nftables_types import TYPES
from .netlink import attribute, nested
from .nftables_numbers import (
    CTS,
    DATA_VALUE,
    DATA_VERDICT,
    FAMILIES,
    FIBS,
    METAS,
    NAT_FLAGS,
    NAT_KINDS,
    NAT_PORT,
    NUMGENS,
    OPERATORS,
    PAYLOADS,
    PORT_UNREACHABLE,
    TCP_ONLY,
    UPDATES,
    VERDICT_CHAIN,
    VERDICT_CODE,
    VERDICTS,
    prefix_mask,
)
from .nftables_registers import words

_WITHOUT_FIELDS: dict[type, str] = {Counter: "counter", Notrack: "notrack"}
_FIRST_REGISTER = 8
_JHASH_SOURCE = 4
"""The index of the register where nft(8) puts what it hashes."""


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def value_attribute(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(DATA_VALUE, value))


def verdict_attribute(kind: int, verdict: Verdict) -> bytes:
    code = u32(VERDICT_CODE, VERDICTS[verdict.action])
    chain = text(VERDICT_CHAIN, verdict.chain) if verdict.chain else b""
    return nested(kind, nested(DATA_VERDICT, code, chain))


def expression(name: str, *fields: bytes) -> bytes:
    """Return an expression as an element of a list."""
    return nested(1, text(1, name), nested(2, *fields))


def encode_rule(statements: Iterable[Statement], family: str) -> bytes:
    """Return the list of a rule's expressions."""
    return b"".join(part for statement in statements for part in encode_statement(statement, family))


def _register(kind: int, index: int) -> bytes:
    return u32(kind, _FIRST_REGISTER + index)


def _load(operand: Operand, index: int = 0) -> list[bytes]:
    """Return what puts a field into the register of this index."""
    if isinstance(operand, Numgen):
        parts = [_register(1, index), u32(2, operand.modulus), u32(3, NUMGENS[operand.mode]), u32(4, operand.offset)]
        return [expression("numgen", *parts)]
    if isinstance(operand, Jhash):
        return _load_hash(operand, index)
    if isinstance(operand, Bits):
        return _load(operand.field, index) + [_bitwise(index, operand.mask, operand.xor)]
    return [_load_field(operand, index)]


def _load_field(field: str, index: int) -> bytes:
    if field in PAYLOADS:
        return _payload(*PAYLOADS[field], index)
    if field in METAS:
        return expression("meta", u32(2, METAS[field]), _register(1, index))
    if field in FIBS:
        result, flags = FIBS[field]
        return expression("fib", _register(1, index), u32(2, result), u32(3, flags))
    key, direction = CTS[field]
    parts = [_register(1, index), u32(2, key)]
    return expression("ct", *parts, *([attribute(3, bytes((direction,)))] if direction is not None else []))


def _payload(header: int, offset: int, size: int, index: int) -> bytes:
    return expression("payload", _register(1, index), u32(2, header), u32(3, offset), u32(4, size))


def _load_hash(operand: Jhash, index: int) -> list[bytes]:
    source = index + _JHASH_SOURCE
    parts = [_register(1, source), _register(2, index), u32(3, _hashed_bytes(operand.fields))]
    parts += [u32(4, operand.modulus)] + ([] if operand.seed is None else [u32(5, operand.seed)])
    parts.append(u32(6, operand.offset))
    return _load_key(operand.fields, source) + [expression("hash", *parts)]


def _hashed_bytes(fields: Sequence[str]) -> int:
    return 4 * sum(words(field) for field in fields)


def _load_key(key: Key, index: int = 0) -> list[bytes]:
    parts = []
    for operand in key:
        parts += _load(operand, index)
        index += words(operand)
    return parts


def _bitwise(index: int, mask: bytes, xor: bytes) -> bytes:
    masks = value_attribute(4, mask), value_attribute(5, xor or bytes(len(mask)))
    return expression("bitwise", _register(1, index), _register(2, index), u32(3, len(mask)), u32(6, 0), *masks)


def _compare(operator: str, value: bytes, index: int = 0) -> bytes:
    return expression("cmp", _register(1, index), u32(2, OPERATORS[operator]), value_attribute(3, value))


def _immediate(value: bytes, index: int = 0) -> bytes:
    return expression("immediate", _register(1, index), value_attribute(2, value))


def _map(mapped: Mapped, index: int = 0) -> list[bytes]:
    lookup = expression("lookup", text(1, mapped.map), _register(2, index), _register(3, index))
    return _load_key(mapped.key, index) + [lookup]


@singledispatch
def encode_statement(statement: Statement, family: str) -> list[bytes]:
    """Return the expressions of a statement in a table of this family."""
    if type(statement) not in _WITHOUT_FIELDS:
        raise TypeError(f"{statement} cannot be written to a table of family {family}")
    return [expression(_WITHOUT_FIELDS[type(statement)])]


@encode_statement.register
def _match(statement: Match, family: str) -> list[bytes]:
    if statement.operator not in ("==", "!=") and TYPES[type_of(statement.field)].is_host_order:
        raise ValueError(f"the kernel compares bytes, so that {statement.field} has no order")
    needed = encode_statement(TCP_ONLY, family) if _is_of_tcp(statement.field) else []
    return [*needed, *_load(statement.field), _compare(statement.operator, statement.value)]


def _is_of_tcp(operand: Operand) -> bool:
    return (operand.field if isinstance(operand, Bits) else operand) == "tcp flags"


@encode_statement.register
def _in_network(statement: InNetwork, dummy: str) -> list[bytes]:
    operator = "!=" if statement.inverted else "=="
    size = statement.length // 8
    if statement.field in PAYLOADS and statement.length % 8 == 0 and size:
        header, offset, _size = PAYLOADS[statement.field]
        return [_payload(header, offset, size, 0), _compare(operator, statement.address[:size])]
    mask = prefix_mask(statement.length, len(statement.address))
    return [*_load(Bits(statement.field, mask)), _compare(operator, statement.address)]


@encode_statement.register
def _has_bits(statement: HasBits, family: str) -> list[bytes]:
    needed = encode_statement(TCP_ONLY, family) if _is_of_tcp(statement.field) else []
    compared = _compare("==" if statement.inverted else "!=", bytes(len(statement.bits)))
    return [*needed, *_load(Bits(statement.field, statement.bits)), compared]


@encode_statement.register
def _in_range(statement: InRange, dummy: str) -> list[bytes]:
    loaded = _load(statement.field)
    if not statement.inverted:
        return [*loaded, _compare(">=", statement.low), _compare("<=", statement.high)]
    bounds = value_attribute(3, statement.low), value_attribute(4, statement.high)
    return [*loaded, expression("range", _register(1, 0), u32(2, 1), *bounds)]


@encode_statement.register
def _in_set(statement: InSet, dummy: str) -> list[bytes]:
    inverted = [u32(5, 1)] if statement.inverted else []
    return [*_load_key(statement.key), expression("lookup", text(1, statement.set), _register(2, 0), *inverted)]


@encode_statement.register
def _verdict(statement: Verdict, dummy: str) -> list[bytes]:
    return [expression("immediate", u32(1, 0), verdict_attribute(2, statement))]


@encode_statement.register
def _verdict_map(statement: VerdictMap, dummy: str) -> list[bytes]:
    lookup = expression("lookup", text(1, statement.map), _register(2, 0), u32(3, 0))
    return [*_load_key(statement.key), lookup]


@encode_statement.register
def _nat(statement: Nat, family: str) -> list[bytes]:
    if statement.family != family:
        raise ValueError(f"{statement.kind} of family {statement.family} in a table of family {family}")
    parts = [u32(1, NAT_KINDS[statement.kind]), u32(2, FAMILIES[family]), _register(3, 0)]
    if isinstance(statement.address, Mapped):
        port = 1 if family == "ip" else 4
        loaded = _map(statement.address)
    else:
        port = 4
        loaded = [_immediate(statement.address)]
        loaded += [_immediate(statement.port, port)] if isinstance(statement.port, bytes) else []
    parts += [_register(5, port)] if statement.port else []
    flags = _nat_flags(statement.flags) | (NAT_PORT if isinstance(statement.port, bytes) else 0)
    return [*loaded, expression("nat", *parts, *([u32(7, flags)] if flags else []))]


def _nat_flags(names: Iterable[str]) -> int:
    return sum(NAT_FLAGS[name] for name in names)


@encode_statement.register
def _masquerade(statement: Masquerade, dummy: str) -> list[bytes]:
    return [expression("masq", *([u32(1, _nat_flags(statement.flags))] if statement.flags else []))]


@encode_statement.register
def _reject(statement: Reject, family: str) -> list[bytes]:
    if statement.tcp_reset:
        return [*encode_statement(TCP_ONLY, family), expression("reject", u32(1, 1), attribute(2, b"\0"))]
    return [expression("reject", u32(1, 0), attribute(2, bytes((PORT_UNREACHABLE[family],))))]


@encode_statement.register
def _set_field(statement: SetField, dummy: str) -> list[bytes]:
    if isinstance(statement.value, bytes):
        loaded = [_immediate(statement.value)]
    elif isinstance(statement.value, Mapped):
        loaded = _map(statement.value)
    else:
        loaded = _load(statement.value)
    if statement.field in METAS:
        return [*loaded, expression("meta", u32(2, METAS[statement.field]), _register(3, 0))]
    return [*loaded, expression("ct", u32(2, CTS[statement.field][0]), _register(4, 0))]


@encode_statement.register
def _update(statement: Update, dummy: str) -> list[bytes]:
    index = sum(words(operand) for operand in statement.key)
    parts = [text(1, statement.set), u32(3, UPDATES[statement.operation]), _register(4, 0)]
    parts += [_register(5, index)] if statement.data else []
    parts += [attribute(6, struct.pack(">Q", statement.timeout))] if statement.timeout else []
    loaded = _load_key(statement.key)
    for part in statement.data:
        loaded += [_immediate(part, index)] if isinstance(part, bytes) else _load(part, index)
        index += (len(part) + 3) // 4 if isinstance(part, bytes) else words(part)
    return [*loaded, expression("dynset", *parts)]


@encode_statement.register
def _flow_offload(statement: FlowOffload, dummy: str) -> list[bytes]:
    return [expression("flow_offload", text(1, statement.flowtable))]
