# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of nftables as files, one for each part of a node that has something in it: messages of the transaction that makes it.

Not text for ``nft -f``: a node needs no nft, and that of Debian 12 (1.0.6) cannot write all that the kernel holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from .._kernel.nftables import Nftables
from .._kernel.nftables_messages import encode_change
from .._objects.nftables import Chain, FlowOffload, Table
from .._objects.nftables_changes import AddTable, DeleteTable, NftChange, NftError, TableId
from .._objects.nftables_parts import TABLES
from .._plan.nftables import plan_tables
from .boot_generations import BootError

Encoded = tuple[int, int, bytes]
"""Kind, flags and payload of a message."""

_HEADER = struct.Struct("<IHH")


def encode(table: Table) -> tuple[bytes, bytes]:
    """Return the content of two files: what one part has in the table, and its flow tables with the chains that lead to them."""
    name = TableId(table.family, table.name)
    first = {name: _without_flowtables(table)}
    return _encoded(plan_tables(first, {}).changes), _encoded(plan_tables({name: table}, first).changes)


def _without_flowtables(table: Table) -> Table:
    chains = {name: chain for name, chain in table.chains.items() if not _leads_to_flowtable(chain)}
    return table._replace(chains=chains, flowtables={})


def _leads_to_flowtable(chain: Chain) -> bool:
    return any(isinstance(one, FlowOffload) for rule in chain.rules for one in rule.statements)


def _encoded(changes: Sequence[NftChange]) -> bytes:
    messages = [one for change in changes for one in encode_change(change)]
    return b"".join(_HEADER.pack(len(one.payload), one.kind, one.flags) + one.payload for one in messages)


def decode(content: bytes) -> list[Encoded]:
    """Return the messages of a file. Raises ValueError for what `encode` has not made."""
    return list(_messages(content))


def _messages(content: bytes) -> Iterator[Encoded]:
    offset = 0
    while offset < len(content):
        if offset + _HEADER.size > len(content):
            raise ValueError("it ends in the middle of a message")
        length, kind, flags = _HEADER.unpack_from(content, offset)
        offset += _HEADER.size + length
        if offset > len(content):
            raise ValueError("it ends in the middle of a message")
        yield kind, flags, content[offset - length : offset]


def restore(family: str, content: bytes) -> None:
    """Put a table into the kernel in place of what bears its name, in one transaction. Raises BootError.

    content: the files of all parts, one behind the other. A table that is not there is added first, so that it can be deleted.
    """
    name = TABLES[family]
    try:
        with Nftables() as nftables:
            nftables.apply_encoded(decode(_encoded([AddTable(name), DeleteTable(name)]) + content))
    except (NftError, ValueError) as error:
        raise BootError(str(error)) from error


def restore_offload(family: str, content: bytes) -> None:
    """Put flow tables into a table that has none. Raises BootError."""
    try:
        with Nftables() as nftables:
            if not nftables.flowtables(TABLES[family]):
                nftables.apply_encoded(decode(content))
    except (NftError, ValueError) as error:
        raise BootError(str(error)) from error


def stands(family: str) -> bool:
    """Return whether the kernel has our table of this family. Raises BootError."""
    try:
        with Nftables() as nftables:
            return nftables.has(TABLES[family])
    except NftError as error:
        raise BootError(str(error)) from error
