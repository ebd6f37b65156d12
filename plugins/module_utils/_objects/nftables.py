# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tables of nftables hold: chains of rules, sets and maps with their elements. Pure.

A rule is a sequence of statements in nft's own terms. Values are comparable as they stand: what the kernel holds, read back, equals
what was written. `nftables_text` writes each as ``nft list ruleset`` does, `_kernel.nftables_rules` as the kernel's expressions.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from .nftables_types import FIELDS

NUMERIC = "integer"
VERDICT = "verdict"


class Numgen(NamedTuple):
    """A number made for each packet, from `offset` on, below `offset + modulus`."""

    mode: str  # random or inc
    modulus: int
    offset: int = 0


class Jhash(NamedTuple):
    """A hash of fields, from `offset` on, below `offset + modulus`. Without a seed the kernel chooses one."""

    fields: tuple[str, ...]
    modulus: int
    seed: int | None = None
    offset: int = 0


class Bits(NamedTuple):
    """Some bits of a field: the field and a mask, then (for marks that are set) exclusive or with `xor`."""

    field: str
    mask: bytes
    xor: bytes = b""  # empty for zeros


Operand = Union[str, Numgen, Jhash, Bits]
"""What is read of a packet: the name of a field (`FIELDS`), or what is computed."""
Key = tuple[Operand, ...]


class Mapped(NamedTuple):
    """What a map of this table holds under a key."""

    key: Key
    map: str


class Match(NamedTuple):
    """A comparison; the rule ends for packets for which it is not true."""

    field: Operand
    value: bytes
    operator: str = "=="  # == != < > <= >=


class InNetwork(NamedTuple):
    """Whether an address is in a network."""

    field: str
    address: bytes  # the first of the network
    length: int  # of the prefix
    inverted: bool = False


class HasBits(NamedTuple):
    """Whether any of these bits is set (``ct state established,related``); inverted: none."""

    field: str
    bits: bytes
    inverted: bool = False


class InRange(NamedTuple):
    """Whether a value is between two, both included."""

    field: Operand
    low: bytes
    high: bytes
    inverted: bool = False


class InSet(NamedTuple):
    """Whether a key is in a set of this table."""

    key: Key
    set: str
    inverted: bool = False


class Verdict(NamedTuple):
    """What becomes of the packet: accept, drop, return, continue, or jump or goto to a chain."""

    action: str
    chain: str = ""


class VerdictMap(NamedTuple):
    """The verdict that a map holds under a key; the rule ends if there is none."""

    key: Key
    map: str


class Nat(NamedTuple):
    """A new destination (``dnat``) or source (``snat``)."""

    kind: str
    address: bytes | Mapped
    port: bytes | bool = False  # a port; or for what is mapped whether it is an address and a port
    flags: tuple[str, ...] = ()  # of random, fully-random, persistent
    family: str = "ip"  # the table's


class Masquerade(NamedTuple):
    """The outgoing interface's address as source."""

    flags: tuple[str, ...] = ()


class Reject(NamedTuple):
    """An answer that nothing is there: port unreachable, or a reset (which only TCP packets get)."""

    tcp_reset: bool = False


class SetField(NamedTuple):
    """A mark of the packet or of its connection is set."""

    field: str  # meta mark, ct mark
    value: bytes | Operand | Mapped


class Update(NamedTuple):
    """An element is put into a set or map of this table by the packet itself."""

    operation: str  # add: unless it is there; update: also renew its timeout; delete
    set: str
    key: Key
    data: tuple[Operand | bytes, ...] = ()
    timeout: int = 0  # milliseconds; 0: the set's


class Counter(NamedTuple):
    """Packets and bytes are counted; what has been counted is no part of the rule."""


class Notrack(NamedTuple):
    """The packet is not tracked."""


class FlowOffload(NamedTuple):
    """The connection takes a flow table of this table from now on."""

    flowtable: str


class Unknown(NamedTuple):
    """An expression that this collection does not write; somebody's."""

    name: str
    content: bytes


Statement = Union[
    Match,
    InNetwork,
    HasBits,
    InRange,
    InSet,
    Verdict,
    VerdictMap,
    Nat,
    Masquerade,
    Reject,
    SetField,
    Update,
    Counter,
    Notrack,
    FlowOffload,
    Unknown,
]


class Rule(NamedTuple):
    """A rule of a chain."""

    statements: tuple[Statement, ...]
    comment: str = ""


class Hook(NamedTuple):
    """What makes a chain a base chain: where packets enter it."""

    type: str  # filter, nat, route
    name: str  # prerouting, input, forward, output, postrouting
    priority: int
    policy: str = "accept"


class Chain(NamedTuple):
    """A chain; a regular one without a hook."""

    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None
    comment: str = ""


class Element(NamedTuple):
    """What a set or map holds under a key, beside what packets have made of it (expiry, counters)."""

    data: bytes | Verdict | None = None  # None in a set
    comment: str = ""
    timeout: int = 0  # milliseconds; 0: the set's


Elements = dict[bytes, Element]
"""By key: the values of its fields one behind the other (`concatenated`); of a set with intervals the lowest and then the highest key."""


class SetHeader(NamedTuple):
    """A set, or a map if it has data."""

    key: tuple[Operand, ...]  # names of types, or the fields and numbers that are looked up
    data: tuple[Operand, ...] = ()  # the same; ("verdict",) for a verdict map
    flags: tuple[str, ...] = ()  # sorted, of constant, dynamic, interval, timeout
    size: int = 0  # most elements, 0 for no limit
    timeout: int = 0  # milliseconds
    counter: bool = False  # each element counts packets and bytes
    comment: str = ""

    @property
    def is_filled_by_packets(self) -> bool:
        """Whether its elements are the packets' and no part of what is wanted."""
        return "dynamic" in self.flags


class Set(NamedTuple):
    """A set or map with its elements (none are read or compared of one that packets fill)."""

    header: SetHeader
    elements: Elements


class Flowtable(NamedTuple):
    """A flow table of the hook ingress."""

    priority: int
    devices: tuple[str, ...]  # sorted


class Table(NamedTuple):
    """A table with all that is in it, each by its name."""

    family: str  # ip, ip6
    name: str
    sets: dict[str, Set]
    chains: dict[str, Chain]
    flowtables: dict[str, Flowtable]
    comment: str = ""
    is_dormant: bool = False  # somebody has turned its base chains off


def type_of(operand: Operand) -> str:
    """Return the name of the type of a field, of a number, or of a type itself."""
    if isinstance(operand, str):
        return FIELDS.get(operand, operand)
    if isinstance(operand, Bits):
        return FIELDS[operand.field]
    return NUMERIC


def types_of(key: tuple[Operand, ...]) -> tuple[str, ...]:
    return tuple(type_of(operand) for operand in key)
