# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Netlink messages and the socket that carries them, for the facilities that encode their own.

Attribute types are without the flags for nesting and byte order where they come from the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLA_F_NESTED, NLA_F_NET_BYTEORDER = 0x8000, 0x4000

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_DUMP_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: what was dumped has changed meanwhile, so that parts of it may be missing."""
_MOST_DUMPS = 20
"""Attempts to read something that changes all the time."""
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17
_HEADER = struct.Struct("=IHHII")
_SEQUENCE_AT = 8
_LENGTH_AND_TYPE = struct.Struct("=IH").unpack_from
_TYPE_AND_FLAGS = struct.Struct("=4xHH").unpack_from
_ANSWER = struct.Struct("=IH2xI4xi").unpack_from
"""Of an answer that a request is done or refused: length, type, sequence number, errno."""
_DONE = struct.Struct("=IHHIIi").unpack_from
"""Of the message that ends a dump: alone, or behind the last answers."""
_DONE_BYTES = 20
_LENGTH = struct.Struct("=I").unpack_from
_ERRNO = struct.Struct("=i").unpack_from
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NetlinkError(Exception):
    """The kernel's answer to a request was an error, or there was none. code: errno, or the facility's own. request: the
    payload, echoed.
    """

    def __init__(self, code: int, request: bytes = b"") -> None:
        super().__init__(f"netlink: {os.strerror(code)}" if code in errno.errorcode else f"netlink error {code}")
        self.code, self.request = code, request


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + _PADDING[length % 4]


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def each_attribute(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of every attribute, in order."""
    offset, end = 0, len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(payload: bytes) -> dict[int, bytes]:
    """Attributes by type; of one that is there several times the last."""
    return dict(each_attribute(payload))


def messages(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the payloads of the messages of a datagram begin and end."""
    offset, end = 0, len(datagram)
    while offset < end:
        (length,) = _LENGTH(datagram, offset)
        yield offset + _HEADER.size, offset + length
        offset += (length + 3) & ~3


class NetlinkSocket:
    """A connection to one netlink family of the network namespace that this process is in."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))

    def close(self) -> None:
        self._socket.close()

    def filter_in_kernel(self) -> None:
        """Have dumps hold only what matches the header of their request, on kernels that do so (4.20)."""
        with suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def request(self, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
        """Send one message and yield the payloads of the answers, up to the kernel's acknowledgement.

        The iterator has to be exhausted. Raises NetlinkError.
        """
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0)
        self._send(header + payload)
        while True:
            for answer, dummy, body in self._receive(self._sequence):
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        raise NetlinkError(-code, body[4 + _HEADER.size :])
                    return
                yield body

    def execute(self, kind: int, flags: int, payload: bytes) -> None:
        """The same, for a request whose only answer is the acknowledgement."""
        for _answer in self.request(kind, flags, payload):
            continue

    def dump(self, kind: int, payload: bytes, containing: bytes = b"") -> list[bytes]:
        """Return the payloads of all answers to a request for a dump, those that contain these bytes; for those who make tens
        of thousands. A dump during which something has changed is made again. Raises NetlinkError.
        """
        for _attempt in range(_MOST_DUMPS):
            found = self._dump(kind, payload, containing)
            if found is not None:
                return found
        raise NetlinkError(errno.EINTR)

    def _dump(self, kind: int, payload: bytes, containing: bytes) -> list[bytes] | None:
        """None where the kernel says that it is not consistent."""
        self._sequence += 1
        flags = NLM_F_REQUEST | NLM_F_DUMP
        self._send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload)
        bodies: list[bytes] = []
        is_consistent = True
        while True:
            datagram = self._datagram()
            (sequence,) = struct.unpack_from("=I", datagram, _SEQUENCE_AT)
            if sequence != self._sequence:
                continue
            is_wanted = containing in datagram
            is_consistent &= not _TYPE_AND_FLAGS(datagram)[1] & _DUMP_INTERRUPTED
            offset, end = 0, len(datagram)
            while offset < end:
                length, answer = _LENGTH_AND_TYPE(datagram, offset)
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    (code,) = struct.unpack_from("=i", datagram, offset + _HEADER.size)
                    if code:
                        raise NetlinkError(-code)
                    return [body for body in bodies if containing in body] if is_consistent else None
                if is_wanted:
                    bodies.append(datagram[offset + _HEADER.size : offset + length])
                offset += (length + 3) & ~3

    def each_dump(self, kind: int, payloads: Iterable[bytes]) -> Iterator[list[bytes]]:
        """Yield the answers to requests for a dump each, as they come: datagrams with one message or more (`messages`), none of them
        the end; for those who make tens of thousands of requests with few answers. Raises NetlinkError.
        """
        for payload in payloads:
            self._sequence += 1
            sequence = self._sequence
            length = _HEADER.size + len(payload)
            self._send(_HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + payload)
            found: list[bytes] = []
            while True:
                datagram = self._datagram()
                dummy, answer, dummy, answered, dummy = _HEADER.unpack_from(datagram)
                if answered != sequence:
                    continue
                if answer == _NLMSG_ERROR:
                    raise NetlinkError(-_ERRNO(datagram, _HEADER.size)[0])
                at = len(datagram) - _DONE_BYTES
                dummy, answer, flags, answered, dummy, code = _DONE(datagram, at)
                if (answer, answered) != (_NLMSG_DONE, sequence):
                    found.append(datagram)
                    continue
                if code or flags & _DUMP_INTERRUPTED:
                    raise NetlinkError(-code or errno.EINTR)
                if at:
                    found.append(datagram[:at])
                break
            yield found

    def execute_block(self, kind: int, flags: int, payloads: Sequence[bytes]) -> dict[int, int]:
        """Requests of which it matters only whether they are refused, sent as one datagram; at most 64 with payloads and answers of
        a few hundred bytes, so that all fit into the socket's buffer. The kernel also carries out those behind one that it refuses.

        The errno of each that was refused, by its index.
        """
        first, last = self._sequence + 1, self._sequence + len(payloads)
        block = []
        for sequence, payload in enumerate(payloads, first):
            asked = flags | NLM_F_REQUEST | (NLM_F_ACK if sequence == last else 0)
            block += [_HEADER.pack(_HEADER.size + len(payload), kind, asked, sequence, 0), payload]
        self._sequence = last
        self._send(b"".join(block))
        refused: dict[int, int] = {}
        while True:
            offset, end = 0, self._fill()
            while offset < end:
                length, answer, sequence, code = _ANSWER(self._buffer, offset)
                if answer == _NLMSG_ERROR and first <= sequence <= last:
                    if code:
                        refused[sequence - first] = -code
                    if sequence == last:
                        return refused
                offset += (length + 3) & ~3

    def _receive(self, oldest: int) -> Iterator[tuple[int, int, bytes]]:
        """Type, sequence number and body of each message in the next datagram that answers a request since the oldest."""
        datagram = self._datagram()
        offset = 0
        while offset + _HEADER.size <= len(datagram):
            length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
            if flags & _DUMP_INTERRUPTED and kind != _NLMSG_ERROR and sequence == self._sequence:
                raise NetlinkError(errno.EINTR)
            if oldest <= sequence <= self._sequence:
                yield kind, sequence, datagram[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3

    def _send(self, messages: bytes) -> None:
        try:
            self._socket.sendto(messages, (0, 0))
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from error

    def _datagram(self) -> bytes:
        return bytes(self._buffer[: self._fill()])

    def _fill(self) -> int:
        """Receive a datagram into the buffer and return its length.

        Raises NetlinkError also for answers that were lost (ENOBUFS): what is missing is not read as what is not there.
        """
        try:
            return self._socket.recv_into(self._buffer)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from error
