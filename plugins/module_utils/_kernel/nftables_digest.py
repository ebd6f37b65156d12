# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A digest of tables of nftables: far cheaper than their values, where it only matters whether somebody has changed them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable

from .._objects.nftables import SetHeader
from .._objects.nftables_changes import NftChangedError, TableId
from . import nftables_messages as wire
from .netlink import each_attribute
from .nftables import Nftables
from .nftables_answers import decode_header, name_of, split_elements

_TELLING = {
    wire.GET_TABLE: (wire.NAME_OF_TABLE, wire.TABLE_FLAGS),
    wire.GET_CHAIN: (wire.CHAIN_NAME, wire.CHAIN_HOOK, wire.CHAIN_POLICY, wire.CHAIN_TYPE),
    wire.GET_RULE: (wire.RULE_CHAIN, wire.RULE_EXPRESSIONS, wire.RULE_USERDATA),
    wire.GET_SET: (
        wire.NAME_IN_TABLE,
        wire.SET_FLAGS,
        wire.SET_KEY_TYPE,
        wire.SET_DATA_TYPE,
        wire.SET_DESCRIPTION,
        wire.SET_TIMEOUT,
        wire.SET_USERDATA,
    ),
    wire.GET_FLOWTABLE: (wire.NAME_IN_TABLE, wire.FLOWTABLE_HOOK),
}
"""What tells objects from others; the rest are handles, which are new for the same objects made again, and what packets change."""
_NAMED_BY = {wire.GET_CHAIN: wire.CHAIN_NAME, wire.GET_RULE: wire.RULE_CHAIN}
"""What says which chain, set or flow table an object is or belongs to; else it is `NAME_IN_TABLE`."""


def digest_of(nft: Nftables, wanted: Sequence[TableId], is_meant: Callable[[str], bool] = bool) -> tuple[str, int]:
    """Return a digest of these tables without what packets change in them, and the ruleset's generation of which all is.

    It is the same as long as nobody changes them or makes them anew. is_meant: tells by their names which chains, sets, maps and
    flow tables count. Raises NftError.
    """
    found, generation = hashlib.blake2b(digest_size=16), nft.generation()
    for one in wanted:
        for part in _parts(nft, one, is_meant):
            found.update(part)
    if nft.generation() != generation:
        raise NftChangedError("nftables: the ruleset was changed by somebody else meanwhile")
    return found.hexdigest(), generation


def _parts(nft: Nftables, table: TableId, is_meant: Callable[[str], bool]) -> Iterator[bytes]:
    for fields in nft.objects(wire.GET_TABLE, table):
        yield from _telling(fields, wire.GET_TABLE)
    for kind in (wire.GET_CHAIN, wire.GET_RULE, wire.GET_FLOWTABLE, wire.GET_SET):
        for fields in nft.objects(kind, table):
            name = name_of(fields, _NAMED_BY.get(kind, wire.NAME_IN_TABLE))
            if not is_meant(name):
                continue
            yield from _telling(fields, kind)
            header = decode_header(fields) if kind == wire.GET_SET else None
            if header and not header.is_filled_by_packets:
                yield from _telling_elements(header, nft.lists(table, name))


def _telling(fields: dict[int, bytes], kind: int) -> Iterator[bytes]:
    """Yield what a digest is made of, of an object that a dump of this kind has."""
    for one in _TELLING[kind]:
        value = fields.get(one, b"")
        yield struct.pack("=III", kind, one, len(value)) + value


def _telling_elements(header: SetHeader, lists: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what a digest is made of, of the elements of a set, whatever their order."""
    elements = split_elements(header, lists)
    if header.counter:
        elements = ((key, _without_counter(rest)) for key, rest in elements)
    yield b"".join(sorted(key + rest for key, rest in elements))


def _without_counter(rest: bytes) -> bytes:
    return b"".join(value for kind, value in each_attribute(rest) if kind != wire.ELEMENT_EXPRESSION)
