# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel says of tables of nftables, as values: the way back from `nftables_messages`, whoever made the objects.

The payloads are those of the answers to a dump, behind the header of four bytes that says the family.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from .._objects.nftables import (
    VERDICT,
    Chain,
    Element,
    Elements,
    Flowtable,
    Hook,
    Operand,
    Rule,
    SetHeader,
    Verdict,
    types_of,
)
from .._objects.nftables_types import TYPES, key_size
from . import nftables_messages as wire
from .netlink import attributes, each_attribute
from .nftables_decoding import decode_rule, decode_value, to_number, to_text
from .nftables_numbers import DATA_VALUE
from .nftables_userdata import decode_comment, decode_set

_TYPE_NAMES = {data_type.number: name for name, data_type in TYPES.items()}
_HOOK_NAMES = {hook: name for name, hook in wire.HOOKS.items()}
_POLICY_NAMES = {policy: name for name, policy in wire.POLICIES.items()}
_LENGTH = struct.Struct("=H").unpack_from
_KEY_AT = 12
"""Where the key stands in an element: behind the headers of the element, of its key, and of the key's value."""
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2


class Counted(NamedTuple):
    """What an element's counter has counted."""

    packets: int
    bytes: int


def name_of(fields: dict[int, bytes], kind: int = wire.NAME_IN_TABLE) -> str:
    return to_text(fields[kind])


def comment_of_table(fields: dict[int, bytes]) -> str:
    return decode_comment(fields.get(wire.TABLE_USERDATA, b""))


def is_dormant(fields: dict[int, bytes]) -> bool:
    return bool(to_number(fields.get(wire.TABLE_FLAGS, b"")) & wire.TABLE_IS_DORMANT)


def is_anonymous(fields: dict[int, bytes]) -> bool:
    """Whether a set is a part of a rule (``{ 10.0.0.1, 10.0.0.2 }``), with which it goes."""
    return bool(to_number(fields.get(wire.SET_FLAGS, b"")) & wire.ANONYMOUS)


def decode_chain(fields: dict[int, bytes]) -> Chain:
    """Return a chain without its rules."""
    hook = None
    if wire.CHAIN_HOOK in fields:
        where = attributes(fields[wire.CHAIN_HOOK])
        priority = int.from_bytes(where[wire.HOOK_PRIORITY], "big", signed=True)
        name = _HOOK_NAMES.get(to_number(where[wire.HOOK_NUMBER]), "")
        policy = _POLICY_NAMES[to_number(fields[wire.CHAIN_POLICY])]
        hook = Hook(to_text(fields[wire.CHAIN_TYPE]), name, priority, policy)
    return Chain((), hook, decode_comment(fields.get(wire.CHAIN_USERDATA, b"")))


def decode_rule_of(fields: dict[int, bytes], family: str) -> Rule:
    statements = decode_rule(fields.get(wire.RULE_EXPRESSIONS, b""), family)
    return Rule(statements, decode_comment(fields.get(wire.RULE_USERDATA, b"")))


def decode_flowtable(fields: dict[int, bytes]) -> Flowtable:
    hook = attributes(fields[wire.FLOWTABLE_HOOK])
    devices = [to_text(name) for dummy, name in each_attribute(hook.get(wire.HOOK_DEVICES, b""))]
    priority = int.from_bytes(hook[wire.HOOK_PRIORITY], "big", signed=True)
    return Flowtable(priority, tuple(sorted(devices)))


def decode_header(fields: dict[int, bytes]) -> SetHeader:
    """Return what the kernel says of a set or map beside its name."""
    bits = to_number(fields.get(wire.SET_FLAGS, b""))
    key, data, comment = decode_set(fields.get(wire.SET_USERDATA, b""))
    data_type = to_number(fields[wire.SET_DATA_TYPE]) if bits & wire.MAP else 0
    description = attributes(fields.get(wire.SET_DESCRIPTION, b""))
    return SetHeader(
        _operands(key, to_number(fields[wire.SET_KEY_TYPE])),
        _operands(data, data_type),
        tuple(flag for flag, bit in wire.SET_FLAG_BITS.items() if bits & bit),
        to_number(description.get(wire.DESCRIPTION_SIZE, b"")),
        to_number(fields.get(wire.SET_TIMEOUT, b"")),
        wire.SET_EXPRESSION in fields,
        comment,
    )


def _operands(fields: tuple[Operand, ...], whole: int) -> tuple[Operand, ...]:
    """Return the fields that are said to be a key or data, if they are of these types; or else the names of the types."""
    if whole == wire.VERDICT_TYPE:
        return (VERDICT,)
    if fields and wire.type_number(types_of(fields)) == whole:
        return fields
    names: list[Operand] = []
    while whole:
        names.insert(0, _TYPE_NAMES.get(whole & 63, "integer"))
        whole >>= 6
    return tuple(names)


def decode_elements(header: SetHeader, lists: Iterable[bytes]) -> Elements:
    """Return the elements of these lists, which hold all of the set's."""
    if "interval" in header.flags:
        if len(header.key) > 1:
            return _ranges(header, lists)
        return _intervals(header, lists)
    elements = {}
    rest_of = _rest_decoder()
    for key, rest in split_elements(header, lists):
        elements[key] = rest_of(rest)
    return elements


def split_elements(header: SetHeader, lists: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key of every element and the attributes behind its key; no key for the element that stands for all others."""
    size = key_size(types_of(header.key))
    key_end = _KEY_AT + size
    rest_at = key_end + -size % 4
    for elements in lists:
        offset, end = 0, len(elements)
        while offset < end:
            (length,) = _LENGTH(elements, offset)
            if elements[offset + 6] == wire.ELEMENT_KEY:
                yield elements[offset + _KEY_AT : offset + key_end], elements[offset + rest_at : offset + length]
            else:
                yield b"", elements[offset + 4 : offset + length]
            offset += (length + 3) & ~3


def _rest_decoder() -> Callable[[bytes], Element]:
    """Return what makes elements of the attributes behind their keys; of equal ones it makes one and the same."""
    made: dict[bytes, Element] = {}
    verdicts: dict[bytes, Verdict] = {}

    def decode(rest: bytes) -> Element:
        element = made.get(rest)
        if element is None:
            element = made[rest] = _decode_rest(rest, verdicts)
        return element

    return decode


def _decode_rest(rest: bytes, verdicts: dict[bytes, Verdict]) -> Element:
    fields = attributes(rest)
    data: bytes | Verdict | None = None
    if wire.ELEMENT_DATA in fields:
        content = fields[wire.ELEMENT_DATA]
        data = verdicts.get(content) or decode_value(content)
        if isinstance(data, Verdict):
            verdicts[content] = data
    timeout = to_number(fields.get(wire.ELEMENT_TIMEOUT, b""))
    comment = decode_comment(fields[wire.ELEMENT_USERDATA]) if wire.ELEMENT_USERDATA in fields else ""
    return Element(data, comment, timeout)


def _ranges(header: SetHeader, lists: Iterable[bytes]) -> Elements:
    elements = {}
    rest_of = _rest_decoder()
    for key, rest in split_elements(header, lists):
        high = attributes(rest).get(wire.ELEMENT_KEY_END, b"")
        elements[key + (attributes(high)[DATA_VALUE] if high else key)] = rest_of(rest)
    return elements


def _intervals(header: SetHeader, lists: Iterable[bytes]) -> Elements:
    """Return intervals with both ends; the kernel holds where each begins, and apart from that where it has ended."""
    points = []
    for key, rest in split_elements(header, lists):
        is_end = to_number(attributes(rest).get(wire.ELEMENT_FLAGS, b"")) & wire.IS_END
        points.append((key, not is_end, rest))
    points.sort()
    elements = {}
    rest_of = _rest_decoder()
    for index, (key, is_start, rest) in enumerate(points):
        if is_start:
            behind = points[index + 1][0] if index + 1 < len(points) else b""
            elements[key + _before(behind, len(key))] = rest_of(rest)
    return elements


def _before(key: bytes, size: int) -> bytes:
    """Return the last value before this one; without one the highest."""
    return ((int.from_bytes(key, "big") if key else 1 << 8 * size) - 1).to_bytes(size, "big")


def decode_counters(header: SetHeader, lists: Iterable[bytes]) -> dict[bytes, Counted]:
    """Return what the elements of a set without intervals have counted."""
    counters = {}
    for key, rest in split_elements(header, lists):
        expression = attributes(attributes(rest).get(wire.ELEMENT_EXPRESSION, b""))
        fields = attributes(expression.get(2, b""))
        counters[key] = Counted(
            to_number(fields.get(_COUNTER_PACKETS, b"")), to_number(fields.get(_COUNTER_BYTES, b""))
        )
    return counters
