# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of iptables-legacy as the kernel holds it: one blob, which tells in little time whether any rule is another.

As text, the same takes the tool and its reader ten times as long. Structures are those of ``ip_tables.h`` and ``ip6_tables.h``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO_SIZE, _COUNT_AT, _SIZE_AT = 84, 76, 80
_ENTRIES_AT = 40
_NAME_SIZE = 32
_WORD, _HALF = 8, 2
_PART = 1 << 19
"""Words."""


class _Family(NamedTuple):
    """Where in an entry the offset of the next stands, and its counters of packets and bytes."""

    socket_family: int
    level: int
    next_at: int
    counters_at: int


_FAMILIES = {
    "ipv4": _Family(socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    "ipv6": _Family(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}


class LegacyTable(NamedTuple):
    """What the kernel tells of a table, and the entries themselves behind a head."""

    family: str
    info: bytearray
    entries: bytearray

    @property
    def length(self) -> int:
        """In entries: one for each rule, two for each chain, and some that are always there."""
        (found,) = struct.unpack_from("=I", self.info, _COUNT_AT)
        return int(found)

    def digest(self) -> str:
        """Of its rules, chains and policies, without counters, which are set to 0. Raises OSError for what it cannot be."""
        known, digest = _FAMILIES[self.family], hashlib.sha256(self.info)
        with ThreadPoolExecutor(1) as beside, memoryview(self.entries) as view:
            for start, end in _cleared_parts(self.entries, known):
                beside.submit(digest.update, view[start:end])
            beside.shutdown()
        return digest.hexdigest()


def read_table(family: str, table: str) -> LegacyTable:
    """As the kernel holds it. Raises OSError where it cannot be read so."""
    if struct.calcsize("P") != 8:
        raise OSError("the structures of this kernel are not known")
    known = _FAMILIES[family]
    with socket.socket(known.socket_family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw:
        info = _read(raw, known.level, _GET_INFO, _named(table, _INFO_SIZE))
        (size,) = struct.unpack_from("=I", info, _SIZE_AT)
        wanted = _named(table, _ENTRIES_AT + size)
        struct.pack_into("=I", wanted, _NAME_SIZE, size)
        return LegacyTable(family, info, _read(raw, known.level, _GET_ENTRIES, wanted))


def _named(table: str, size: int) -> bytearray:
    given, name = bytearray(size), table.encode()
    given[: len(name)] = name
    return given


def _read(raw: socket.socket, level: int, what: int, given: bytearray) -> bytearray:
    """By the C library: Python's getsockopt gives no input and takes no kilobytes."""
    library = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_char * len(given)).from_buffer(given)
    length = ctypes.c_uint32(len(given))
    if library.getsockopt(raw.fileno(), level, what, buffer, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return given


def _cleared_parts(entries: bytearray, known: _Family) -> Iterator[tuple[int, int]]:
    """Set the counters to 0, and say from where to where that is done each time it is for some megabytes.

    Entries are aligned to eight bytes (``XT_ALIGN``), so that counters and offsets are elements of arrays.
    """
    with memoryview(entries) as view, view.cast("Q") as words, view.cast("H") as halves:
        packets, step_at = known.counters_at // _WORD, known.next_at // _HALF
        at, end = _ENTRIES_AT // _WORD, len(words)
        start = 0
        while at < end:
            until = min(at + _PART, end)
            while at < until:
                words[at + packets] = words[at + packets + 1] = 0
                step = halves[at * (_WORD // _HALF) + step_at] // _WORD
                if not step:
                    raise OSError("an entry of the table has no end")
                at += step
            yield start * _WORD, at * _WORD
            start = at
