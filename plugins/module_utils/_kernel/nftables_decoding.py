# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's expressions of a rule as statements: the way back from `nftables_rules`, whoever wrote the rule.

The expressions are followed as the kernel would: what each loads is noted by register, what each does with registers becomes a
statement. What this collection does not write becomes `Unknown`, which equals nothing that is wanted.
"""

from __future__ import annotations

from typing import Callable

from .._objects.nftables import (
    Bits,
    Counter,
    FlowOffload,
    HasBits,
    InNetwork,
    InRange,
    InSet,
    Jhash,
    Mapped,
    Masquerade,
    Match,
    Nat,
    Notrack,
    Numgen,
    Reject,
    SetField,
    Statement,
    Unknown,
    Update,
    Verdict,
    VerdictMap,
    type_of,
)
from .netlink import attributes, each_attribute
from .nftables_numbers import (
    CTS,
    DATA_VALUE,
    DATA_VERDICT,
    FAMILIES,
    FIBS,
    METAS,
    NAT_FLAGS,
    NAT_KINDS,
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
from .nftables_registers import Beginning, Loaded, NotOursError, Registers, words

Fields = dict[int, bytes]
_METAS = {key: field for field, key in METAS.items()}
_CTS = {key: field for field, key in CTS.items()}
_FIBS = {key: field for field, key in FIBS.items()}
_OPERATORS = {number: operator for operator, number in OPERATORS.items()}
_VERDICTS = {number: action for action, number in VERDICTS.items()}
_NAT_KINDS = {number: kind for kind, number in NAT_KINDS.items()}
_UPDATES = {number: operation for operation, number in UPDATES.items()}
_NUMGENS = {number: mode for mode, number in NUMGENS.items()}
_FAMILIES = {number: family for family, number in FAMILIES.items()}
_BIT_FIELDS = ("ct state", "ct status", "tcp flags")
_TCP_RESET, _NO_VERDICT = 1, 0


def to_number(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def to_text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def decode_value(payload: bytes) -> bytes | Verdict:
    """Return the value or the verdict of an attribute that holds either."""
    held = attributes(payload)
    if DATA_VALUE in held:
        return held[DATA_VALUE]
    verdict = attributes(held[DATA_VERDICT])
    code = int.from_bytes(verdict[VERDICT_CODE], "big", signed=True)
    return Verdict(_VERDICTS[code], to_text(verdict.get(VERDICT_CHAIN, b"")))


def decode_rule(payload: bytes, family: str) -> tuple[Statement, ...]:
    """Return the statements of a rule's list of expressions."""
    decoder = _Decoder(family)
    for _kind, element in each_attribute(payload):
        held = attributes(element)
        decoder.follow(to_text(held[1]), held.get(2, b""))
    return tuple(decoder.statements)


class _Decoder:
    """What the expressions so far have loaded into registers, and the statements that they have made."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.statements: list[Statement] = []
        self._registers = Registers()
        self._is_used = False  # what is loaded has been used: the next load begins anew

    def follow(self, name: str, content: bytes) -> None:
        """Take one expression into account."""
        try:
            _EXPRESSIONS[name](self, attributes(content))
        except (KeyError, NotOursError):
            self.emit(Unknown(name, content))

    def _load(self, register: bytes, loaded: Loaded) -> None:
        if self._is_used:
            self._registers, self._is_used = Registers(), False
        self._registers.load(to_number(register), loaded)

    def emit(self, statement: Statement) -> None:
        self.statements.append(statement)
        self._is_used = True

    def payload(self, fields: Fields) -> None:
        header, offset, size = (to_number(fields[kind]) for kind in (2, 3, 4))
        for name, (other, start, whole) in PAYLOADS.items():
            if (header, offset) == (other, start) and size <= whole:
                self._load(fields[1], name if size == whole else Beginning(name, size))
                return
        raise NotOursError

    def meta(self, fields: Fields) -> None:
        self._load_or_set(_METAS[to_number(fields[2])], fields, 3)

    def ct(self, fields: Fields) -> None:
        direction = fields[3][0] if 3 in fields else None
        self._load_or_set(_CTS[to_number(fields[2]), direction], fields, 4)

    def _load_or_set(self, field: str, fields: Fields, source: int) -> None:
        if source not in fields:
            self._load(fields[1], field)
            return
        value = self._registers[to_number(fields[source])]
        if isinstance(value, Beginning):
            raise NotOursError
        self.emit(SetField(field, value))

    def fib(self, fields: Fields) -> None:
        self._load(fields[1], _FIBS[to_number(fields[2]), to_number(fields[3])])

    def numgen(self, fields: Fields) -> None:
        mode, modulus, offset = _NUMGENS[to_number(fields[3])], to_number(fields[2]), to_number(fields.get(4, b""))
        self._load(fields[1], Numgen(mode, modulus, offset))

    def hash(self, fields: Fields) -> None:
        key = self._registers.key(to_number(fields[1]))
        names = tuple(operand for operand in key if isinstance(operand, str))
        if to_number(fields.get(7, b"")) or len(names) < len(key):
            raise NotOursError
        seed = to_number(fields[5]) if 5 in fields else None
        self._registers.forget(to_number(fields[1]), sum(map(words, names)))
        self._load(fields[2], Jhash(names, to_number(fields[4]), seed, to_number(fields.get(6, b""))))

    def bitwise(self, fields: Fields) -> None:
        field = self._registers[to_number(fields[1])]
        if to_number(fields.get(6, b"")) or not isinstance(field, str):
            raise NotOursError
        mask, xor = (attributes(fields[kind])[DATA_VALUE] for kind in (4, 5))
        self._load(fields[2], Bits(field, mask, xor if any(xor) else b""))

    def immediate(self, fields: Fields) -> None:
        value = decode_value(fields[2])
        if isinstance(value, Verdict):
            self.emit(value)
        else:
            self._load(fields[1], value)

    def cmp(self, fields: Fields) -> None:
        left, operator = self._registers[to_number(fields[1])], _OPERATORS[to_number(fields[2])]
        value = attributes(fields[3])[DATA_VALUE]
        last = self.statements[-1] if self.statements and self._is_used else None
        if operator == "<=" and isinstance(last, Match) and (last.field, last.operator) == (left, ">="):
            self.statements[-1] = InRange(last.field, last.value, value)
        else:
            self.emit_of_tcp(_comparison(left, operator, value))

    def emit_of_tcp(self, statement: Match | HasBits | InNetwork | Reject) -> None:
        """Take back the comparison that nft(8) puts before what only TCP has."""
        field = getattr(statement, "field", "")
        if isinstance(statement, Reject) or (field.field if isinstance(field, Bits) else field) == "tcp flags":
            if not self.statements or self.statements[-1] != TCP_ONLY:
                raise NotOursError
            self.statements.pop()
        self.emit(statement)

    def range(self, fields: Fields) -> None:
        left = self._registers[to_number(fields[1])]
        if isinstance(left, (bytes, Mapped, Beginning)):
            raise NotOursError
        low, high = (attributes(fields[kind])[DATA_VALUE] for kind in (3, 4))
        self.emit(InRange(left, low, high, to_number(fields[2]) == 1))

    def lookup(self, fields: Fields) -> None:
        key, name = self._registers.key(to_number(fields[2])), to_text(fields[1])
        if 3 not in fields:
            self.emit(InSet(key, name, to_number(fields.get(5, b"")) == 1))
        elif to_number(fields[3]) == _NO_VERDICT:
            self.emit(VerdictMap(key, name))
        else:
            self._is_used = True
            self._load(fields[3], Mapped(key, name))

    def dynset(self, fields: Fields) -> None:
        if 7 in fields or 10 in fields:
            raise NotOursError
        data = tuple(self._registers.data(to_number(fields[5]))) if 5 in fields else ()
        until = to_number(fields[5]) if 5 in fields else None
        key, timeout = self._registers.key(to_number(fields[4]), until), to_number(fields.get(6, b""))
        self.emit(Update(_UPDATES[to_number(fields[3])], to_text(fields[1]), key, data, timeout))

    def nat(self, fields: Fields) -> None:
        address = self._registers[to_number(fields[3])]
        if not isinstance(address, (bytes, Mapped)) or fields.get(4, fields[3]) != fields[3]:
            raise NotOursError
        port: bytes | bool = 5 in fields
        if port and isinstance(address, bytes):
            loaded = self._registers[to_number(fields[5])]
            if not isinstance(loaded, bytes):
                raise NotOursError
            port = loaded
        flags = _nat_flags(fields.get(7, b""))
        self.emit(Nat(_NAT_KINDS[to_number(fields[1])], address, port, flags, _FAMILIES[to_number(fields[2])]))

    def masq(self, fields: Fields) -> None:
        if 2 in fields:
            raise NotOursError
        self.emit(Masquerade(_nat_flags(fields.get(1, b""))))

    def reject(self, fields: Fields) -> None:
        if to_number(fields[1]) == _TCP_RESET:
            self.emit_of_tcp(Reject(tcp_reset=True))
        elif to_number(fields[1]) == 0 and to_number(fields[2]) == PORT_UNREACHABLE[self.family]:
            self.emit(Reject())
        else:
            raise NotOursError

    def flow_offload(self, fields: Fields) -> None:
        self.emit(FlowOffload(to_text(fields[1])))


def _comparison(left: Loaded, operator: str, value: bytes) -> Match | HasBits | InNetwork:
    """Return the statement that compares what is loaded with a value."""
    if isinstance(left, (bytes, Mapped)):
        raise NotOursError
    is_equality = operator in ("==", "!=")
    if isinstance(left, Beginning):
        whole = PAYLOADS[left.field][2]
        if not is_equality or whole not in (4, 16):
            raise NotOursError
        return InNetwork(left.field, value.ljust(whole, b"\0"), 8 * left.size, operator == "!=")
    if isinstance(left, Bits) and is_equality and not left.xor:
        if left.field in _BIT_FIELDS and not any(value):
            return HasBits(left.field, left.mask, operator == "==")
        length = bin(to_number(left.mask)).count("1")
        if type_of(left).endswith("_addr") and left.mask == prefix_mask(length, len(left.mask)):
            return InNetwork(left.field, value, length, operator == "!=")
    return Match(left, value, operator)


def _nat_flags(payload: bytes) -> tuple[str, ...]:
    given = to_number(payload)
    return tuple(name for name, bit in NAT_FLAGS.items() if given & bit)


_EXPRESSIONS: dict[str, Callable[[_Decoder, Fields], None]] = {
    "payload": _Decoder.payload,
    "meta": _Decoder.meta,
    "ct": _Decoder.ct,
    "fib": _Decoder.fib,
    "numgen": _Decoder.numgen,
    "hash": _Decoder.hash,
    "bitwise": _Decoder.bitwise,
    "immediate": _Decoder.immediate,
    "cmp": _Decoder.cmp,
    "range": _Decoder.range,
    "lookup": _Decoder.lookup,
    "dynset": _Decoder.dynset,
    "nat": _Decoder.nat,
    "masq": _Decoder.masq,
    "reject": _Decoder.reject,
    "counter": lambda decoder, dummy: decoder.emit(Counter()),
    "notrack": lambda decoder, dummy: decoder.emit(Notrack()),
    "flow_offload": _Decoder.flow_offload,
}
"""By the name of the kernel's expression."""
