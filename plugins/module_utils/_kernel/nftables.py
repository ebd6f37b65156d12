# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables of nftables in the kernel: read whole, and changed in transactions, over netlink.

Needs neither nft(8) nor a library. Everything that can fail raises NftError or one of its kinds.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from .._objects.nftables import Chain, Elements, Flowtable, Rule, Set, SetHeader, Table
from .._objects.nftables_changes import NftChange, NftChangedError, NftError, NftRefusedError, TableId
from . import nftables_answers as answers
from . import nftables_messages as wire
from .netlink import NLM_F_ACK, NLM_F_REQUEST, NetlinkError, NetlinkSocket, attributes
from .nftables_decoding import to_number
from .nftables_errors import describe, reason
from .nftables_rules import text, u32

_NETLINK_NETFILTER, _SOL_NETLINK = 12, 270
_SUBSYSTEM = 10
_BEGIN, _END = 16, 17
_GENERATION_ID = 1
_CAP_ACK, _EXT_ACK = 10, 11
_SO_SNDBUFFORCE = 32
_LARGEST_BUFFER = 1 << 30
_HEADER = struct.Struct("=IHHII")
_ERROR, _IS_CAPPED, _HAS_REMARKS = 2, 0x100, 0x200
_REMARK_OFFSET = 2
_ERESTART = 85
_NO_ENTRY = 2
_WHOLE = "nftables: committing the transaction: "
_MOST_READINGS = 10
"""How often tables are read anew because somebody changed the ruleset meanwhile, or elements because two readings differ."""
_MANY = 1 << 16
"""Bytes; some hundred elements."""


class Refusal(NamedTuple):
    """A message of a batch that the kernel refused."""

    place: int  # of the message; -1: the batch as a whole
    code: int  # errno
    offset: int  # of the attribute at fault within the message, 0 if it was not said


class _BatchSocket(NetlinkSocket):
    """A netlink socket that also carries the kernel's transactions."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_NETFILTER)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _LARGEST_BUFFER - 1)

    def send_limit(self) -> int:
        """Return the bytes that can be sent at once."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32

    def transact(self, messages: Sequence[tuple[int, int, bytes]], generation: int | None) -> list[Refusal]:
        """Have all of these done, or none; nothing is refused if all were done.

        Only the last message is acknowledged: answers to all would not fit into the receive buffer.
        """
        first = self._sequence + 2
        self._sequence = last = first + len(messages) - 1
        self._socket.sendto(b"".join(_framed(messages, first, generation)), (0, 0))
        refusals = []
        while True:
            for refusal in self._errors(first):
                if refusal.code:
                    refusals.append(refusal)
                if refusal.place in (-1, last - first):
                    return refusals

    def _errors(self, first: int) -> Iterator[Refusal]:
        """Yield what the next datagram says of messages from this sequence number on, acknowledgements as errno 0."""
        datagram = bytes(self._buffer[: self._socket.recv_into(self._buffer)])
        offset = 0
        while offset < len(datagram):
            length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
            if kind == _ERROR and sequence >= first - 1:
                yield Refusal(sequence - first, *_error(datagram[offset + _HEADER.size : offset + length], flags))
            offset += (length + 3) & ~3


def _error(body: bytes, flags: int) -> tuple[int, int]:
    """Return the errno and the offset of the attribute at fault."""
    code, length = struct.unpack_from("=iI", body)
    place = 0
    if flags & _HAS_REMARKS:
        remarks = attributes(body[4 + (_HEADER.size if flags & _IS_CAPPED else length) :])
        place = struct.unpack("=I", remarks[_REMARK_OFFSET])[0] if _REMARK_OFFSET in remarks else 0
    return -code, place


def _framed(messages: Sequence[tuple[int, int, bytes]], first: int, generation: int | None) -> Iterator[bytes]:
    edge = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
    begin = edge + (u32(_GENERATION_ID, generation) if generation is not None else b"")
    yield _HEADER.pack(_HEADER.size + len(begin), _BEGIN, NLM_F_REQUEST, first - 1, 0) + begin
    last = len(messages) - 1
    for index, (kind, flags, payload) in enumerate(messages):
        flags |= NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
        length = _HEADER.size + len(payload)
        yield _HEADER.pack(length, _SUBSYSTEM << 8 | kind, flags, first + index, 0)
        yield payload + bytes(-length % 4)
    yield _HEADER.pack(_HEADER.size + len(edge), _END, NLM_F_REQUEST, first + last + 1, 0) + edge


class Nftables:
    """The tables of this network namespace. A context manager."""

    def __enter__(self) -> Nftables:
        try:
            self._netlink = _BatchSocket()
        except OSError as error:
            raise NftError(f"nftables cannot be reached over netlink: {error.strerror}") from error
        return self

    def __exit__(self, *_error: object) -> None:
        self._netlink.close()

    def generation(self) -> int:
        """Return the number that every change of any table of this namespace makes another."""
        try:
            (answer,) = self._netlink.request(_SUBSYSTEM << 8 | wire.GET_GENERATION, 0, struct.pack("!BBH", 0, 0, 0))
        except (OSError, NetlinkError) as error:
            raise _failure("reading the ruleset's generation", error) from error
        return to_number(attributes(answer[4:])[1])

    def send_limit(self) -> int:
        """Return the bytes that a transaction may have."""
        return self._netlink.send_limit()

    def apply(self, changes: Sequence[NftChange], generation: int | None = None) -> None:
        """Make all of these changes at once, or none.

        Raises NftRefusedError, and NftChangedError if the ruleset's generation is not the one given any more.
        """
        messages = [message for change in changes for message in wire.encode_change(change)]
        refusals = self._transact([(one.kind, one.flags, one.payload) for one in messages], generation)
        if refusals:
            place, code, offset = refusals[0]
            if code == _ERESTART:
                raise NftChangedError("nftables: the ruleset was changed by somebody else meanwhile")
            raise NftRefusedError(_WHOLE + reason(code) if place < 0 else describe(messages, place, code, offset))

    def apply_encoded(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """Send a transaction by kind, flags and payload of its messages. Raises NftRefusedError."""
        refusals = self._transact(messages, None)
        if refusals:
            raise NftRefusedError(_WHOLE + reason(refusals[0].code))

    def _transact(self, messages: Sequence[tuple[int, int, bytes]], generation: int | None) -> list[Refusal]:
        try:
            return self._netlink.transact(messages, generation) if messages else []
        except OSError as error:
            raise NftRefusedError(f"nftables: sending a transaction: {reason(error.errno or 0)}") from error

    def has(self, table: TableId) -> bool:
        """Return whether there is a table of this name."""
        return any(_is_of(table, one) for one in self._dump(wire.GET_TABLE, table.family))

    def flowtables(self, table: TableId) -> dict[str, Flowtable]:
        """Return the flow tables of a table, each with those of its devices that are there."""
        return {name: answers.decode_flowtable(one) for name, one in self._flowtables(table).items()}

    def names(self, table: TableId) -> set[str]:
        """Return the names of a table's chains, sets, maps and flow tables."""
        chains = self._dump(wire.GET_CHAIN, table.family, containing=table.name.encode())
        named = {answers.name_of(one, wire.CHAIN_NAME) for one in chains if _is_of(table, one)}
        return named.union(self._sets(table), self._flowtables(table))

    def tables(
        self, wanted: Sequence[TableId], is_meant: Callable[[str], bool] = bool
    ) -> tuple[dict[TableId, Table], int]:
        """Return those of these tables that are there, and the ruleset's generation of which all is.

        is_meant: tells by their names which chains, sets, maps and flow tables are read.
        """
        for _reading in range(_MOST_READINGS):
            generation = self.generation()
            try:
                read = {one: self._read(one, is_meant) for one in wanted}
            except (NftError, KeyError):
                if self.generation() == generation:
                    raise
                continue
            if self.generation() == generation:
                return {one: table for one, table in read.items() if table is not None}, generation
        raise NftChangedError("nftables: the ruleset is being changed by somebody else all the time")

    def counters(self, table: TableId, name: str, header: SetHeader) -> dict[bytes, answers.Counted]:
        """Return what the elements of a set or map of this table have counted."""
        return answers.decode_counters(header, self.lists(table, name))

    def elements(self, table: TableId, name: str, header: SetHeader) -> Elements:
        """Return the elements of a set or map of this table, those that packets have made too."""
        return answers.decode_elements(header, self._settled_lists(table, name))

    def _settled_lists(self, table: TableId, name: str) -> list[bytes]:
        """Return the elements as two readings in a row tell them, where they are many.

        The kernel makes the hash table of a set larger some time behind a change; a reading meanwhile misses a part of the elements,
        without a word (``nft_rhash_walk``).
        """
        found = self.lists(table, name)
        for _reading in range(_MOST_READINGS):
            size = sum(map(len, found))
            if size < _MANY:
                break
            found = self.lists(table, name)
            if sum(map(len, found)) == size:
                break
        return found

    def _read(self, table: TableId, is_meant: Callable[[str], bool]) -> Table | None:
        fields = next((one for one in self._dump(wire.GET_TABLE, table.family) if _is_of(table, one)), None)
        if fields is None:
            return None
        sets = {name: one for name, one in self._sets(table).items() if is_meant(name)}
        return Table(
            table.family,
            table.name,
            {name: self._set(table, name, one) for name, one in sets.items()},
            self._chains(table, is_meant),
            {name: one for name, one in self.flowtables(table).items() if is_meant(name)},
            answers.comment_of_table(fields),
            answers.is_dormant(fields),
        )

    def _sets(self, table: TableId) -> dict[str, dict[int, bytes]]:
        """What the kernel says of each set and map beside its elements."""
        found = self.objects(wire.GET_SET, table)
        return {answers.name_of(one): one for one in found if not answers.is_anonymous(one)}

    def _flowtables(self, table: TableId) -> dict[str, dict[int, bytes]]:
        return {answers.name_of(one): one for one in self.objects(wire.GET_FLOWTABLE, table)}

    def _set(self, table: TableId, name: str, fields: dict[int, bytes]) -> Set:
        header = answers.decode_header(fields)
        return Set(header, {} if header.is_filled_by_packets else self.elements(table, name, header))

    def _chains(self, table: TableId, is_meant: Callable[[str], bool]) -> dict[str, Chain]:
        chains = {}
        for fields in self._dump(wire.GET_CHAIN, table.family, containing=table.name.encode()):
            name = answers.name_of(fields, wire.CHAIN_NAME)
            if _is_of(table, fields) and is_meant(name):
                chains[name] = answers.decode_chain(fields)
        rules: dict[str, list[Rule]] = {name: [] for name in chains}
        for fields in self.objects(wire.GET_RULE, table):
            name = answers.name_of(fields)
            if is_meant(name):
                rules[name].append(answers.decode_rule_of(fields, table.family))
        return {name: chain._replace(rules=tuple(rules[name])) for name, chain in chains.items()}

    def lists(self, table: TableId, name: str) -> list[bytes]:
        """Return the elements of a set or map as the kernel tells them."""
        answered = self.objects(wire.GET_ELEMENT, table, text(wire.NAME_IN_TABLE, name))
        return [fields.get(wire.ELEMENTS, b"") for fields in answered]

    def objects(self, kind: int, table: TableId, further: bytes = b"") -> list[dict[int, bytes]]:
        """Return what the kernel tells of a table's objects of a kind, by attribute."""
        answered = self._dump(kind, table.family, text(wire.NAME_OF_TABLE, table.name) + further)
        return [fields for fields in answered if _is_of(table, fields)]

    def _dump(self, kind: int, family: str, payload: bytes = b"", containing: bytes = b"") -> list[dict[int, bytes]]:
        request = wire.family_header(family) + payload
        try:
            bodies = self._netlink.dump(_SUBSYSTEM << 8 | kind, request, containing)
        except (OSError, NetlinkError) as error:
            if isinstance(error, NetlinkError) and error.code == _NO_ENTRY:
                return []
            raise _failure("reading", error) from error
        return [attributes(body[4:]) for body in bodies]


def _is_of(table: TableId, fields: dict[int, bytes]) -> bool:
    return answers.name_of(fields, wire.NAME_OF_TABLE) == table.name


def _failure(doing: str, error: OSError | NetlinkError) -> NftError:
    code = error.code if isinstance(error, NetlinkError) else error.errno or 0
    return NftError(f"nftables: {doing}: {reason(code)}")
