# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages of netlink that come by thousands in few layouts: packed and read as a whole instead of attribute by attribute."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Callable, NamedTuple

from .netlink import each_attribute


class Layout:
    """Attributes of fixed types and sizes, packed at once. The formats are without byte order, which is the host's."""

    def __init__(self, *fields: tuple[int, str]) -> None:
        sizes = [struct.calcsize("=" + form) for dummy, form in fields]
        self._struct = struct.Struct(
            "=" + "".join(f"HH{form}{-size % 4}x" for (dummy, form), size in zip(fields, sizes))
        )
        self._template = [part for (kind, dummy), size in zip(fields, sizes) for part in (4 + size, kind, 0)]

    def pack(self, *values: Any) -> bytes:
        parts = self._template[:]
        parts[2::3] = values
        return self._struct.pack(*parts)


class _Known(NamedTuple):
    """How the messages of one length are read: what unpacks them, the headers that the values stand behind, and what picks
    the values in order where that is not the kernel's.
    """

    unpack: Callable[[bytes], tuple[Any, ...]]
    headers: tuple[int, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]


class Reader:
    """Reads messages that come by thousands in a few layouts, each taken apart only once. In every message they stand
    behind eight bytes: a header, or a shorter one and that of a single attribute around them.

    formats: of the attributes wanted, by type; "" for a payload of any length, as bytes.
    """

    _OUTER = struct.calcsize("=BBxxHH")

    def __init__(self, formats: Mapping[int, str]) -> None:
        self._formats = formats
        self._known: dict[int, _Known] = {}

    def read(self, body: bytes) -> tuple[Any, ...]:
        """The values in the order of the formats; 0 for an attribute that this kernel does not send."""
        known = self._known.get(len(body)) or self._learn(body)
        found = known.unpack(body)
        if found[::2] != known.headers:
            known = self._learn(body)
            found = known.unpack(body)
        return known.pick((*found, 0))

    def _learn(self, body: bytes) -> _Known:
        form, kinds = f"={self._OUTER}x", []
        for kind, value in each_attribute(body[self._OUTER :]):
            padded = len(value) + 3 & ~3
            if kind in self._formats:
                wanted = self._formats[kind] or f"{len(value)}s"
                form += f"I{wanted}{padded - struct.calcsize('=' + wanted)}x"
                kinds.append(kind)
            else:
                form += f"{4 + padded}x"
        unpack = struct.Struct(form).unpack
        positions = [2 * kinds.index(kind) + 1 if kind in kinds else -1 for kind in self._formats]
        known = self._known[len(body)] = _Known(unpack, unpack(body)[::2], itemgetter(*positions))
        return known
