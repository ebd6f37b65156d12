# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to tables of nftables as messages to the kernel (``linux/netfilter/nf_tables.h``). `nftables_answers` is the way back."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import singledispatch
from typing import Callable, NamedTuple

from .._objects.nftables import (
    VERDICT,
    Element,
    Hook,
    SetHeader,
    Verdict,
    types_of,
)
from .._objects.nftables_changes import (
    AddChain,
    AddElements,
    AddFlowtable,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteFlowtable,
    DeleteSet,
    DeleteTable,
    NftChange,
    ReplaceRules,
)
from .._objects.nftables_types import TYPES, key_size
from .netlink import NLM_F_CREATE, NLM_F_EXCL, attribute, nested
from .nftables_numbers import DATA_VALUE, FAMILIES
from .nftables_rules import encode_rule, expression, text, u32, value_attribute, verdict_attribute
from .nftables_userdata import encode_comment, encode_set

NEW_TABLE, GET_TABLE, DELETE_TABLE = 0, 1, 2
NEW_CHAIN, GET_CHAIN, DELETE_CHAIN = 3, 4, 5
NEW_RULE, GET_RULE, DELETE_RULE = 6, 7, 8
NEW_SET, GET_SET, DELETE_SET = 9, 10, 11
NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 12, 13, 14
GET_GENERATION = 16
NEW_FLOWTABLE, GET_FLOWTABLE, DELETE_FLOWTABLE = 22, 23, 24
NAME_OF_TABLE, NAME_IN_TABLE = 1, 2
"""What the messages of sets, rules, elements and flow tables begin with; a chain has its name as 3."""

_NLM_F_APPEND = 0x800
TABLE_FLAGS, TABLE_USERDATA = 2, 6
TABLE_IS_DORMANT = 1
CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, CHAIN_USERDATA = 3, 4, 5, 7, 12
HOOK_NUMBER, HOOK_PRIORITY, HOOK_DEVICES = 1, 2, 3
RULE_CHAIN, RULE_EXPRESSIONS, RULE_USERDATA = 2, 4, 7
SET_FLAGS, SET_KEY_TYPE, SET_KEY_SIZE, SET_DATA_TYPE, SET_DATA_SIZE = 3, 4, 5, 6, 7
SET_DESCRIPTION, SET_ID, SET_TIMEOUT, SET_USERDATA, SET_EXPRESSION = 9, 10, 11, 13, 17
DESCRIPTION_SIZE, DESCRIPTION_FIELDS = 1, 2
ELEMENT_KEY, ELEMENT_DATA, ELEMENT_FLAGS, ELEMENT_TIMEOUT, ELEMENT_USERDATA, ELEMENT_EXPRESSION, ELEMENT_KEY_END = (
    1,
    2,
    3,
    4,
    6,
    7,
    10,
)
ELEMENTS = 3
IS_END, IS_ANY = 1, 2
FLOWTABLE_HOOK = 3
VERDICT_TYPE, _VERDICT_SIZE = 0xFFFFFF00, 16
ANONYMOUS, MAP, _CONCATENATION = 0x1, 0x8, 0x80
SET_FLAG_BITS = {"constant": 0x2, "dynamic": 0x20, "interval": 0x4, "timeout": 0x10}
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
POLICIES = {"drop": 0, "accept": 1}
_MESSAGE_BYTES = 60 * 1024
"""Of elements in one message; a netlink attribute holds less than 64 KiB."""
_U64 = struct.Struct(">Q")


class Message(NamedTuple):
    """A message of a transaction."""

    kind: int
    flags: int
    payload: bytes
    change: NftChange  # what it is a part of


def encode_change(change: NftChange) -> Iterator[Message]:
    """Yield the messages of a change."""
    header = family_header(change.table.family) + text(NAME_OF_TABLE, change.table.name)
    for kind, flags, payload in _messages(change):
        yield Message(kind, flags, header + payload, change)


def family_header(family: str) -> bytes:
    return struct.pack("!BBH", FAMILIES[family], 0, 0)


_Parts = Iterator[tuple[int, int, bytes]]


@singledispatch
def _messages(change: NftChange) -> _Parts:
    raise TypeError(change)


@_messages.register
def _add_table(change: AddTable) -> _Parts:
    yield NEW_TABLE, NLM_F_CREATE, u32(TABLE_FLAGS, 0) + _commented(TABLE_USERDATA, change.comment)


@_messages.register
def _delete_table(dummy: DeleteTable) -> _Parts:
    yield DELETE_TABLE, 0, b""


@_messages.register
def _add_chain(change: AddChain) -> _Parts:
    hook = _encode_hook(change.chain.hook) if change.chain.hook else b""
    payload = text(CHAIN_NAME, change.name) + hook + _commented(CHAIN_USERDATA, change.chain.comment)
    yield NEW_CHAIN, NLM_F_CREATE | NLM_F_EXCL, payload


def _encode_hook(hook: Hook) -> bytes:
    where = nested(CHAIN_HOOK, u32(HOOK_NUMBER, HOOKS[hook.name]), u32(HOOK_PRIORITY, hook.priority))
    return where + u32(CHAIN_POLICY, POLICIES[hook.policy]) + text(CHAIN_TYPE, hook.type)


@_messages.register
def _delete_chain(change: DeleteChain) -> _Parts:
    yield DELETE_CHAIN, 0, text(CHAIN_NAME, change.name)


@_messages.register
def _replace_rules(change: ReplaceRules) -> _Parts:
    chain = text(RULE_CHAIN, change.chain)
    if change.held:
        yield DELETE_RULE, 0, chain
    for rule in change.wanted:
        expressions = nested(RULE_EXPRESSIONS, encode_rule(rule.statements, change.table.family))
        yield NEW_RULE, NLM_F_CREATE | _NLM_F_APPEND, chain + expressions + _commented(RULE_USERDATA, rule.comment)


def _commented(kind: int, comment: str) -> bytes:
    return attribute(kind, encode_comment(comment)) if comment else b""


@_messages.register
def _add_set(change: AddSet) -> _Parts:
    yield NEW_SET, NLM_F_CREATE | NLM_F_EXCL, text(NAME_IN_TABLE, change.name) + encode_header(change.header)


@_messages.register
def _delete_set(change: DeleteSet) -> _Parts:
    yield DELETE_SET, 0, text(NAME_IN_TABLE, change.name)


def encode_header(header: SetHeader) -> bytes:
    """Return what is said of a set or map beside its name."""
    types = types_of(header.key)
    flags = sum(SET_FLAG_BITS[flag] for flag in header.flags) | (MAP if header.data else 0)
    sizes = [TYPES[name].size for name in types]
    description = u32(DESCRIPTION_SIZE, header.size) if header.size else b""
    if len(types) > 1 and "interval" in header.flags:
        flags |= _CONCATENATION
        description += nested(DESCRIPTION_FIELDS, *(nested(1, u32(1, size)) for size in sizes))
    parts = [u32(SET_FLAGS, flags), u32(SET_KEY_TYPE, type_number(types)), u32(SET_KEY_SIZE, key_size(types))]
    if header.data:
        data = types_of(header.data)
        is_verdict = data == (VERDICT,)
        parts.append(u32(SET_DATA_TYPE, VERDICT_TYPE if is_verdict else type_number(data)))
        parts.append(u32(SET_DATA_SIZE, _VERDICT_SIZE if is_verdict else key_size(data)))
    parts += [nested(SET_DESCRIPTION, description)] if description else []
    parts += [attribute(SET_TIMEOUT, _U64.pack(header.timeout))] if header.timeout else []
    parts.append(attribute(SET_USERDATA, encode_set(header)))
    parts += [nested(SET_EXPRESSION, expression("counter")[4:])] if header.counter else []
    return b"".join([*parts, u32(SET_ID, 1)])


def type_number(types: Iterable[str]) -> int:
    """Return the number of a concatenation: six bits for each type."""
    whole = 0
    for name in types:
        whole = whole << 6 | TYPES[name].number
    return whole


@_messages.register
def _add_elements(change: AddElements) -> _Parts:
    encode = element_encoder(change.header)
    for payload in _blocks(change.set, map(encode, change.elements, change.elements.values())):
        yield NEW_ELEMENT, NLM_F_CREATE | NLM_F_EXCL, payload


@_messages.register
def _delete_elements(change: DeleteElements) -> _Parts:
    encode, nothing = element_encoder(change.header), Element()
    for payload in _blocks(change.set, (encode(key, nothing) for key in change.elements)):
        yield DELETE_ELEMENT, 0, payload


def _blocks(name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the payloads of messages that carry these elements, none of them too long."""
    start = text(NAME_IN_TABLE, name)
    block: list[bytes] = []
    size = 0
    for element in elements:
        if size + len(element) > _MESSAGE_BYTES:
            yield start + nested(ELEMENTS, *block)
            block, size = [], 0
        block.append(element)
        size += len(element)
    if block:
        yield start + nested(ELEMENTS, *block)


def element_encoder(header: SetHeader) -> Callable[[bytes, Element], bytes]:
    """Return what writes the elements of this set or map; one interval is two elements of the kernel's."""
    size = key_size(types_of(header.key))
    rest_of = _rest_encoder()
    if "interval" in header.flags:
        write = _encode_range if len(header.key) > 1 else _encode_interval
        return lambda key, element: write(key[:size], key[size:], rest_of(element))
    padding = bytes(-size % 4)
    start = struct.pack("=HHHH", 8 + size, ELEMENT_KEY, 4 + size, DATA_VALUE)
    head = struct.Struct("=HH").pack

    def encode(key: bytes, element: Element) -> bytes:
        if not key:
            return nested(1, u32(ELEMENT_FLAGS, IS_ANY), rest_of(element))
        content = start + key + padding + rest_of(element)
        return head(4 + len(content), 1) + content

    return encode


def _encode_range(low: bytes, high: bytes, rest: bytes) -> bytes:
    return nested(1, value_attribute(ELEMENT_KEY, low), value_attribute(ELEMENT_KEY_END, high), rest)


def _encode_interval(low: bytes, high: bytes, rest: bytes) -> bytes:
    """Return the first value of an interval and, marked as an end, the one behind its last, if there is any."""
    behind = int.from_bytes(high, "big") + 1
    first = nested(1, value_attribute(ELEMENT_KEY, low), rest)
    if behind >> 8 * len(high):
        return first
    return first + nested(
        1, value_attribute(ELEMENT_KEY, behind.to_bytes(len(high), "big")), u32(ELEMENT_FLAGS, IS_END)
    )


def _rest_encoder() -> Callable[[Element], bytes]:
    """Return what writes all of an element but its key."""
    verdicts: dict[Verdict, bytes] = {}

    def encode(element: Element) -> bytes:
        data, comment, timeout = element
        if isinstance(data, bytes):
            rest = value_attribute(ELEMENT_DATA, data)
        elif data is None:
            rest = b""
        else:
            rest = verdicts.get(data) or verdicts.setdefault(data, verdict_attribute(ELEMENT_DATA, data))
        if timeout:
            rest += attribute(ELEMENT_TIMEOUT, _U64.pack(timeout))
        return rest + attribute(ELEMENT_USERDATA, encode_comment(comment)) if comment else rest

    return encode


@_messages.register
def _add_flowtable(change: AddFlowtable) -> _Parts:
    devices = nested(HOOK_DEVICES, *(text(1, name) for name in change.flowtable.devices))
    hook = nested(FLOWTABLE_HOOK, u32(HOOK_NUMBER, 0), u32(HOOK_PRIORITY, change.flowtable.priority), devices)
    yield NEW_FLOWTABLE, NLM_F_CREATE | NLM_F_EXCL, text(NAME_IN_TABLE, change.name) + hook


@_messages.register
def _delete_flowtable(change: DeleteFlowtable) -> _Parts:
    yield DELETE_FLOWTABLE, 0, text(NAME_IN_TABLE, change.name)
