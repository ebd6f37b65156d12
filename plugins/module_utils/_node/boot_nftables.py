# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of nftables as a file: the messages of the transaction that makes it, in place of what bears its name.

Not text for ``nft -f``: a node needs no nft, and that of Debian 12 (1.0.6) cannot write all that the kernel holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .._kernel.nftables import Nftables
from .._kernel.nftables_messages import encode_change
from .._objects.nftables import Table
from .._objects.nftables_changes import AddTable, DeleteTable, NftChange, NftError, TableId
from .._plan.nftables import plan_tables
from .boot_generations import BootError

Encoded = tuple[int, int, bytes]
"""Kind, flags and payload of a message."""

_TABLES = {"ipv4": TableId("ip", "l4-service-proxy"), "ipv6": TableId("ip6", "l4-service-proxy")}
_HEADER = struct.Struct("<IHH")


def encode(table: Table) -> bytes:
    """Return the content of the file. A table that is not there is added first, so that it can be deleted."""
    name = TableId(table.family, table.name)
    changes: list[NftChange] = [AddTable(name, ""), DeleteTable(name), *plan_tables({name: table}, {}).changes]
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


def restore(content: bytes) -> None:
    """Put the table of a file into the kernel, in one transaction. Raises BootError."""
    try:
        with Nftables() as nftables:
            nftables.apply_encoded(decode(content))
    except (NftError, ValueError) as error:
        raise BootError(str(error)) from error


def stands(family: str) -> bool:
    """Return whether the kernel has our table of this family. Raises BootError."""
    try:
        with Nftables() as nftables:
            return nftables.has(_TABLES[family])
    except NftError as error:
        raise BootError(str(error)) from error
