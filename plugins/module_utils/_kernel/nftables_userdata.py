# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nft(8) has the kernel keep beside objects of nftables: comments, and how the key of a set is to be listed.

Written in the form of nft 1.0.6 (``libnftnl/udata.h`` and the numbers of its own expressions): newer nft reads it, and older nft crashes
on what 1.1.2 and newer write. The kernel does not look at it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .._objects.nftables import VERDICT, Numgen, Operand, SetHeader, types_of
from .._objects.nftables_types import FIELDS, TYPES, number
from .nftables_numbers import CTS, FIBS, METAS, NUMGENS

_COMMENT, _SET_COMMENT = 0, 7
_KEY_ORDER, _DATA_ORDER, _KEY_FIELDS, _DATA_FIELDS = 0, 1, 3, 4
_EXPRESSION, _CONTENT = 0, 1
_PAYLOAD, _META, _CT, _CONCATENATION, _NUMGEN, _FIB = 7, 9, 12, 13, 23, 26
_NO_DIRECTION = 0xFFFFFFFF
_HOST_ORDER, _NETWORK_ORDER, _NO_ORDER = 1, 2, 0
_HEADERS = {
    "th sport": (11, 1),
    "th dport": (11, 2),
    "ip protocol": (12, 9),
    "ip saddr": (12, 11),
    "ip daddr": (12, 12),
    "ip6 nexthdr": (13, 6),
    "ip6 saddr": (13, 8),
    "ip6 daddr": (13, 9),
}
"""nft's own numbers of headers and of their fields."""


def _part(kind: int, content: bytes) -> bytes:
    return bytes((kind, len(content))) + content


def _numbers(*values: int) -> bytes:
    return b"".join(_part(kind, number(value)) for kind, value in enumerate(values))


def encode_comment(comment: str) -> bytes:
    """Return the userdata of a table, chain, rule or element with this comment."""
    return _part(_COMMENT, comment.encode() + b"\0")


def decode_comment(userdata: bytes) -> str:
    """Return the comment, which comes first unless nft(8) has kept more."""
    if len(userdata) > 2 and userdata[0] == _COMMENT:
        return userdata[2 : 1 + userdata[1]].decode(errors="replace")
    return _to_text(dict(_parts(userdata)).get(_COMMENT, b""))


def encode_set(header: SetHeader) -> bytes:
    """Return the userdata of a set or map."""
    userdata = _part(_KEY_ORDER, number(_order(header.key)))
    if header.data:
        userdata += _part(_DATA_ORDER, number(_order(header.data)))
    if any(not _is_type(operand) for operand in header.key):
        userdata += _part(_KEY_FIELDS, _encode_fields(header.key))
        userdata += _part(_DATA_FIELDS, _encode_fields(header.data)) if _has_fields(header.data) else b""
    if header.comment:
        userdata += _part(_SET_COMMENT, header.comment.encode() + b"\0")
    return userdata


def decode_set(userdata: bytes) -> tuple[tuple[Operand, ...], tuple[Operand, ...], str]:
    """Return the fields of key and data, as far as they are said, and the comment."""
    parts = dict(_parts(userdata))
    key, data = (_decode_fields(parts.get(kind, b"")) for kind in (_KEY_FIELDS, _DATA_FIELDS))
    return key, data, _to_text(parts.get(_SET_COMMENT, b""))


def _is_type(operand: Operand) -> bool:
    return operand in TYPES or operand == VERDICT


def _has_fields(operands: tuple[Operand, ...]) -> bool:
    return bool(operands) and all(not _is_type(operand) for operand in operands)


def _order(operands: tuple[Operand, ...]) -> int:
    """Return the order of bytes by which nft(8) reads a single value."""
    if len(operands) > 1 or operands == (VERDICT,):
        return _NO_ORDER
    return _HOST_ORDER if TYPES[types_of(operands)[0]].is_host_order else _NETWORK_ORDER


def _encode_fields(operands: tuple[Operand, ...]) -> bytes:
    if len(operands) == 1:
        return _encode_field(operands[0])
    content = b"".join(_part(index, _encode_field(operand)) for index, operand in enumerate(operands))
    return _part(_EXPRESSION, number(_CONCATENATION)) + _part(_CONTENT, content)


def _encode_field(operand: Operand) -> bytes:
    """Return what nft(8) keeps of a field or number. Raises ValueError for what nft 1.0.6 cannot list."""
    if isinstance(operand, Numgen):
        kind, content = _NUMGEN, _numbers(NUMGENS[operand.mode], operand.modulus, operand.offset)
    elif not isinstance(operand, str) or operand not in FIELDS:
        raise ValueError(f"nft(8) cannot list a set with this in its key: {operand}")
    elif operand in _HEADERS:
        kind, content = _PAYLOAD, _numbers(*_HEADERS[operand])
    elif operand in METAS:
        kind, content = _META, _numbers(METAS[operand])
    elif operand in FIBS:
        kind, content = _FIB, _numbers(*FIBS[operand])
    else:
        key, direction = CTS[operand]
        kind, content = _CT, _numbers(key, _NO_DIRECTION if direction is None else direction)
    return _part(_EXPRESSION, number(kind)) + _part(_CONTENT, content)


def _parts(userdata: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        yield kind, userdata[offset + 2 : offset + 2 + length]
        offset += 2 + length


def _to_text(content: bytes) -> str:
    return content.rstrip(b"\0").decode(errors="replace")


_KNOWN = {
    _encode_field(field): field
    for field in FIELDS
    if field in _HEADERS or field in METAS or field in FIBS or field in CTS
}


def _decode_fields(content: bytes) -> tuple[Operand, ...]:
    """Return the fields of a key, none of one that was declared by its types or that is not known here."""
    parts = dict(_parts(content))
    inner = parts.get(_CONTENT, b"")
    if _value(parts.get(_EXPRESSION, b"")) != _CONCATENATION:
        field = _decode_field(content)
        return () if field is None else (field,)
    fields = [_decode_field(part) for dummy, part in _parts(inner)]
    return tuple(field for field in fields if field is not None) if None not in fields else ()


def _decode_field(content: bytes) -> Operand | None:
    if content in _KNOWN:
        return _KNOWN[content]
    parts = dict(_parts(content))
    if _value(parts.get(_EXPRESSION, b"")) != _NUMGEN:
        return None
    mode, modulus, offset = (_value(part) for dummy, part in _parts(parts[_CONTENT]))
    return Numgen("random" if mode == NUMGENS["random"] else "inc", modulus, offset)


def _value(content: bytes) -> int:
    return int.from_bytes(content, sys.byteorder)
