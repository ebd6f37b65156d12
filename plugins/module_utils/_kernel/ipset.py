# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's ipsets, over netlink. Everything that can fail raises IpsetError.

Needs neither the ipset tool nor pyroute2. Many entries travel in one message and are acknowledged together.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .._objects.ipset import SET_TYPES, Entries, Entry, HeldSet, SetHeader, SetRefusedError
from . import ipset_messages as wire
from .netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    each_attribute,
    nested,
)

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 6 << 8
_PROTOCOL, _CREATE, _DESTROY, _SWAP, _LIST, _ADD, _DEL, _TYPE = 1, 2, 3, 6, 7, 9, 10, 13
_BATCH_BYTES = 48 * 1024
"""Of entries in one message; a netlink attribute holds less than 64 KiB."""

_ERRORS = {
    errno.ENOENT: "there is no such set",
    errno.EEXIST: "it exists already",
    errno.EPERM: "not permitted: CAP_NET_ADMIN is needed in this network namespace",
    4098: "the kernel has no such set type",
    4099: "the kernel holds no more sets",
    4100: "it is in use, by a rule or another set",
    4102: "the types or families of both sets differ",
    4103: "it exists already, or is not there",
    4104: "the length of a network is not possible",
    4107: "the set has no timeouts",
    4108: "it is in use, by a rule or another set",
    4111: "the set has no counters",
    4112: "the set has no comments",
}
_TYPE_ERRORS = {
    "hash": {4352: "the set is full: it holds maxelem entries", 4353: "a null address cannot be stored"},
    "bitmap": {4352: "it is outside of the set's range", 4353: "the range is too large"},
    "list": {
        4352: "there is no such set to be a member",
        4353: "a list:set cannot be a member of a list:set",
        4356: "the set is full",
    },
}


class IpsetError(SetRefusedError):
    """The kernel refused; the text is one line that names the set. code: errno, or ipset's own above 4096."""

    def __init__(self, name: str, doing: str, code: int, type_name: str = "") -> None:
        reason = _ERRORS.get(code) or _TYPE_ERRORS.get(type_name.partition(":")[0], {}).get(code)
        if reason is None:
            reason = os.strerror(code) if code < 4096 else f"ipset error {code}"
        super().__init__(
            f'set "{name}": {doing}: {reason}' if name else f"ipset cannot be {doing} over netlink: {reason}"
        )
        self.code = code


class SetImage(NamedTuple):
    """A set as the kernel sends it."""

    header: SetHeader
    entries: frozenset[bytes]


class NoIpsetError(Exception):
    """This host's kernel has no ipset; the text is one line."""


_NONE = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
"""What kernels answer for a part of netfilter that they have not."""


class Ipset:
    """The ipsets of this network namespace. A context manager; raises NoIpsetError where the kernel has none, and IpsetError
    where it does not answer, for want of a right or otherwise.
    """

    def __init__(self) -> None:
        try:
            self._netlink = NetlinkSocket(_NETLINK_NETFILTER)
        except OSError as error:
            raise _unreachable(error.errno or errno.EIO) from error
        try:
            self._request(_PROTOCOL)
        except NetlinkError as error:
            self._netlink.close()
            raise _unreachable(error.code) from error

    def __enter__(self) -> Ipset:
        return self

    def __exit__(self, *_error: object) -> None:
        self._netlink.close()

    def headers(self) -> dict[str, HeldSet]:
        """Every set by its name, without entries; also of types that this collection does not handle."""
        flags = attribute(wire.ATTR_FLAGS | 0x4000, struct.pack(">I", wire.FLAG_LIST_HEADER))
        return {held.header.name: held for held in self._dump("", flags)}

    def read(self, name: str) -> HeldSet | None:
        """A set with its entries, None where there is none of this name. Of a type not handled, the entries are left out."""
        try:
            return next(iter(list(self._dump(name, wire.text(wire.ATTR_SETNAME, name)))), None)
        except IpsetError as error:
            if error.code == errno.ENOENT:
                return None
            raise

    def select(self, name: str, comments: Iterable[str], addresses: Iterable[str]) -> HeldSet | None:
        """Return a set with those of its entries whose comment begins so, or that have one of these addresses; others may be with them.

        Only what is near to them in the kernel's answer is decoded, so that of 10,000 entries few take a tenth of the time of `read`.
        """
        texts = [wire.start_of_comment(one) for one in comments]
        texts += [wire.packed_address(one) for one in addresses]
        held: HeldSet | None = None
        for body in self._bodies(name):
            message = attributes(body[4:])
            if wire.ATTR_TYPENAME in message:
                held = wire.decode_header(message)
            entries = message.get(wire.ATTR_ADT, b"")
            if held and any(text in entries for text in texts):
                held.entries.update(_decode_entries(held.header, entries))
        return held

    def images(self, names: Iterable[str]) -> dict[str, SetImage]:
        """Return what these sets hold, not decoded: in a fraction of the time of `read`."""
        return {name: image for name in names for image in self._image(name)}

    def decode(self, image: SetImage, entries: Iterable[bytes]) -> Entries:
        """Return some entries of an image."""
        found = map(wire.entry_decoder(image.header), entries)
        return {entry.element: entry for entry in found}

    def _image(self, name: str) -> list[SetImage]:
        """The image of a set, none where there is none of this name."""
        header: SetHeader | None = None
        entries: set[bytes] = set()
        for body in self._bodies(name):
            message = attributes(body[4:])
            if wire.ATTR_TYPENAME in message:
                header = wire.decode_header(message).header
            held = each_attribute(message.get(wire.ATTR_ADT, b""))
            entries.update(part for kind, part in held if kind == wire.ATTR_DATA)
        return [SetImage(header, frozenset(entries))] if header else []

    def _bodies(self, name: str) -> Iterator[bytes]:
        """The messages of a set, none where there is none of this name."""
        try:
            yield from self._stream(_LIST, wire.text(wire.ATTR_SETNAME, name), NLM_F_DUMP)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise IpsetError(name, "reading it", error.code) from error

    def create(self, header: SetHeader) -> None:
        """Make an empty set; one of this name must not exist."""
        settled = self._with_revision(header)
        payload = (
            wire.text(wire.ATTR_SETNAME, header.name)
            + wire.text(wire.ATTR_TYPENAME, header.type)
            + wire.u8(wire.ATTR_REVISION, settled)
            + wire.u8(wire.ATTR_FAMILY, wire.NFPROTO[header.family])
            + wire.encode_header(header)
        )
        self._change(header, "creating it", _CREATE, payload, NLM_F_CREATE | NLM_F_EXCL)

    def destroy(self, name: str) -> None:
        """Remove a set that nothing uses."""
        self._change(SetHeader(name, ""), "destroying it", _DESTROY, wire.text(wire.ATTR_SETNAME, name))

    def swap(self, name: str, other: str) -> None:
        """Exchange what two sets hold, for everyone who uses them at once. They must be of one type and family."""
        payload = wire.text(wire.ATTR_SETNAME, name) + wire.text(wire.ATTR_SETNAME2, other)
        self._change(SetHeader(name, ""), f'swapping it with "{other}"', _SWAP, payload)

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None:
        """Add entries, or write all that is kept beside an element anew where it is there already.

        If one is refused, those before it stay added; `IpsetError.done` is their number.
        """
        self._entries(header, entries, _ADD, "adding")

    def delete(self, header: SetHeader, elements: Sequence[str]) -> None:
        """Delete elements; those that are gone already are no error. What holds for `add` if one is refused holds here too."""
        self._entries(header, [Entry(element) for element in elements], _DEL, "deleting")

    def _entries(self, header: SetHeader, entries: Sequence[Entry], command: int, doing: str) -> None:
        for first, batch in _batches(SET_TYPES[header.type].parts, entries):
            payload = (
                wire.text(wire.ATTR_SETNAME, header.name)
                + attribute(wire.ATTR_LINENO, struct.pack("=I", 0))
                + nested(wire.ATTR_ADT, batch)
            )
            try:
                self._request(command, payload)
            except NetlinkError as error:
                line = max(first, _line_of(error.request))
                refusal = IpsetError(header.name, f"{doing} {entries[line].element}", error.code, header.type)
                refusal.done = line
                raise refusal from error

    def _with_revision(self, header: SetHeader) -> int:
        """The type's revision to ask for. Asking for the range makes the kernel load the type's module."""
        query = wire.text(wire.ATTR_TYPENAME, header.type) + wire.u8(wire.ATTR_FAMILY, wire.NFPROTO[header.family])
        try:
            (answer,) = self._request(_TYPE, query)
        except NetlinkError as error:
            raise IpsetError(header.name, f"creating it with type {header.type}", 4098) from error
        given = attributes(answer[4:])
        highest = given[wire.ATTR_REVISION][0]
        lowest = given.get(wire.ATTR_REVISION_MIN, b"\0")[0]
        wanted = SET_TYPES[header.type].revision if header.revision is None else header.revision
        return max(lowest, min(highest, wanted))

    def _dump(self, name: str, selection: bytes) -> Iterator[HeldSet]:
        held: HeldSet | None = None
        try:
            for body in self._stream(_LIST, selection, NLM_F_DUMP):
                message = attributes(body[4:])
                if wire.ATTR_TYPENAME in message:
                    if held is not None:
                        yield held
                    held = wire.decode_header(message)
                if held is not None and held.header.type in SET_TYPES:
                    held.entries.update(_decode_entries(held.header, message.get(wire.ATTR_ADT, b"")))
        except NetlinkError as error:
            raise IpsetError(name, "reading it" if name else "read", error.code) from error
        if held is not None:
            yield held

    def _change(self, header: SetHeader, doing: str, command: int, payload: bytes, flags: int = 0) -> None:
        try:
            self._request(command, payload, flags)
        except NetlinkError as error:
            raise IpsetError(header.name, doing, error.code, header.type) from error

    def _request(self, command: int, payload: bytes = b"", flags: int = 0) -> list[bytes]:
        return list(self._stream(command, payload, flags))

    def _stream(self, command: int, payload: bytes, flags: int) -> Iterator[bytes]:
        nfgenmsg = struct.pack("=BBH", socket.AF_INET, 0, 0)
        protocol = wire.u8(wire.ATTR_PROTOCOL, wire.PROTOCOL)
        return self._netlink.request(_SUBSYSTEM | command, flags, nfgenmsg + protocol + payload)


def _unreachable(code: int) -> NoIpsetError | IpsetError:
    if code in _NONE:
        return NoIpsetError("ipset cannot be reached over netlink: the kernel has no ipset (module ip_set)")
    return IpsetError("", "reached", code)


def _batches(parts: tuple[str, ...], entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
    """The entries encoded, as many in one piece as a message takes, with the first's line. An entry's line is its index."""
    batch: list[bytes] = []
    size = first = 0
    for line, entry in enumerate(entries):
        encoded = wire.encode_entry(parts, entry, line)
        if size + len(encoded) > _BATCH_BYTES:
            yield first, b"".join(batch)
            batch, size, first = [], 0, line
        batch.append(encoded)
        size += len(encoded)
    if batch:
        yield first, b"".join(batch)


def _line_of(request: bytes) -> int:
    """The line of the entry that was refused: the kernel writes it into the request that it echoes."""
    line = attributes(request[4:]).get(wire.ATTR_LINENO, b"")
    return int(struct.unpack("=I", line)[0]) if line else 0


def _decode_entries(header: SetHeader, payload: bytes) -> Entries:
    decode = wire.entry_decoder(header)
    entries = [decode(part) for kind, part in each_attribute(payload) if kind == wire.ATTR_DATA]
    return {entry.element: entry for entry in entries}
