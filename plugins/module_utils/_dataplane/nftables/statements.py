# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the statements of our rules say about a packet, and what they do to one. Pure.

Only what our own rules use is known; anything else is an error that names it, not a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import singledispatch
from typing import NamedTuple, Union

from ..._model import addresses as ip
from ..._objects.nftables import (
    Bits,
    Elements,
    HasBits,
    InNetwork,
    InSet,
    Key,
    Mapped,
    Masquerade,
    Match,
    Nat,
    Numgen,
    Operand,
    Reject,
    Set,
    SetField,
    Statement,
    Update,
    Verdict,
    VerdictMap,
    types_of,
)
from ..._objects.nftables_types import concatenated, number, pack, split, unpack
from ..packet import Packet
from .maps import ADDRESS_TYPES, AFFINITY, to_number

Sets = Mapping[str, Set]
_TYPES = {kind: pack("fib_addrtype", kind) for kind in ("local", "unicast")}


class UnknownStatement(ValueError):
    """A statement or field of which nothing is known here."""


class State(NamedTuple):
    """A packet with what is kept of its connection."""

    packet: Packet
    ct_mark: int = 0
    is_remembered: bool = False  # whether the client is


PASS, BREAK, STOP = "pass", "break", "stop"
"""The next statement is asked; the next rule is; the chains of this hook are done with the packet."""
Effect = Union[str, Verdict]
Outcome = tuple[Effect, State, Fraction]
_CERTAIN = Fraction(1)


@singledispatch
def outcomes(statement: Statement, dummy: State, _sets: Sets) -> Iterator[Outcome]:
    """Yield how a packet may leave a statement, and how likely. Raises UnknownStatement."""
    raise UnknownStatement(f"the statement {type(statement).__name__} is not known")


@outcomes.register
def _verdict(statement: Verdict, state: State, dummy: Sets) -> Iterator[Outcome]:
    yield statement, state, _CERTAIN


@outcomes.register
def _match(statement: Match, state: State, dummy: Sets) -> Iterator[Outcome]:
    if statement.operator not in ("==", "!="):
        raise UnknownStatement(f"the comparison {statement.operator} is not known")
    is_equal = _value(statement.field, state) == statement.value
    yield _if(is_equal == (statement.operator == "=="), state)


@outcomes.register
def _in_network(statement: InNetwork, state: State, dummy: Sets) -> Iterator[Outcome]:
    shift = 8 * len(statement.address) - statement.length
    value = int.from_bytes(_value(statement.field, state), "big")
    is_within = value >> shift == int.from_bytes(statement.address, "big") >> shift
    yield _if(is_within != statement.inverted, state)


@outcomes.register
def _has_bits(statement: HasBits, state: State, dummy: Sets) -> Iterator[Outcome]:
    common = to_number(_value(statement.field, state)) & to_number(statement.bits)
    yield _if(bool(common) != statement.inverted, state)


@outcomes.register
def _in_set(statement: InSet, state: State, sets: Sets) -> Iterator[Outcome]:
    held = sets[statement.set]
    for key, chance in _keys(statement.key, state):
        effect, dummy, _certain = _if(_contains(held, key) != statement.inverted, state)
        yield effect, state, chance


@outcomes.register
def _verdict_map(statement: VerdictMap, state: State, sets: Sets) -> Iterator[Outcome]:
    for found, chance in _looked_up(Mapped(statement.key, statement.map), state, sets):
        yield found if isinstance(found, Verdict) else BREAK, state, chance


@outcomes.register
def _set_field(statement: SetField, state: State, sets: Sets) -> Iterator[Outcome]:
    value = statement.value
    if isinstance(value, Mapped):
        for found, chance in _looked_up(value, state, sets):
            known = isinstance(found, bytes)
            yield PASS if known else BREAK, _with_mark(statement.field, found, state) if known else state, chance
    else:
        made = value if isinstance(value, bytes) else _value(value, state)
        yield PASS, _with_mark(statement.field, made, state), _CERTAIN


@outcomes.register
def _update(statement: Update, state: State, dummy: Sets) -> Iterator[Outcome]:
    yield PASS, state._replace(is_remembered=state.is_remembered or statement.set == AFFINITY), _CERTAIN


@outcomes.register
def _nat(statement: Nat, state: State, sets: Sets) -> Iterator[Outcome]:
    to = statement.address
    address_type = ADDRESS_TYPES[ip.family_of(state.packet.destination)]
    if statement.kind == "snat" and isinstance(to, bytes):
        yield STOP, _with(state, snat=unpack(address_type, to)), _CERTAIN
    elif statement.kind == "dnat" and isinstance(to, Mapped):
        for found, chance in _looked_up(to, state, sets):
            if isinstance(found, bytes):
                address, port = split((address_type, "inet_service"), found)
                endpoint = {"destination": unpack(address_type, address), "port": int.from_bytes(port, "big")}
                yield STOP, _with(state, dnat=True, **endpoint), chance
            else:
                yield BREAK, state, chance
    else:
        raise UnknownStatement(f"this {statement.kind} is not known")


@outcomes.register
def _masquerade(_statement: Masquerade, state: State, dummy: Sets) -> Iterator[Outcome]:
    yield STOP, _with(state, snat="masquerade"), _CERTAIN


@outcomes.register
def _reject(statement: Reject, state: State, dummy: Sets) -> Iterator[Outcome]:
    if statement.tcp_reset and state.packet.protocol != "tcp":
        yield BREAK, state, _CERTAIN
    else:
        yield STOP, _with(state, verdict="reject"), _CERTAIN


def _if(holds: bool, state: State) -> Outcome:
    return PASS if holds else BREAK, state, _CERTAIN


def _with(state: State, **changed: object) -> State:
    return state._replace(packet=state.packet._replace(**changed))  # type: ignore[arg-type]


def _with_mark(field: str, value: object, state: State) -> State:
    mark = to_number(value) if isinstance(value, bytes) else 0
    return _with(state, mark=mark) if field == "meta mark" else state._replace(ct_mark=mark)


def _value(operand: Operand, state: State) -> bytes:
    """What a field or a computation on one gives for this packet. Raises UnknownStatement."""
    if isinstance(operand, Bits):
        return number(to_number(_value(operand.field, state)) & to_number(operand.mask) ^ to_number(operand.xor))
    packet = state.packet
    if operand in ("ip saddr", "ip6 saddr", "ip daddr", "ip6 daddr"):
        address = packet.source if str(operand).endswith("saddr") else packet.destination
        return pack(ADDRESS_TYPES[ip.family_of(address)], address)
    made = {
        "meta l4proto": lambda: pack("inet_proto", packet.protocol),
        "th dport": lambda: packet.port.to_bytes(2, "big"),
        "meta mark": lambda: number(packet.mark),
        "ct mark": lambda: number(state.ct_mark),
        "ct id": lambda: number(0),
        "ct state": lambda: pack("ct_state", "new"),
        "ct status": lambda: pack("ct_status", "dnat") if packet.dnat else number(0),
        "fib saddr type": lambda: _TYPES["local" if packet.is_local(packet.source) else "unicast"],
        "fib daddr type": lambda: _TYPES["local" if packet.is_local(packet.destination) else "unicast"],
        "iifname": lambda: pack("ifname", "lo" if packet.is_local(packet.source) else "eth0"),
    }
    if operand not in made:
        raise UnknownStatement(f"the field {operand} is not known")
    return made[str(operand)]()


def _keys(key: Key, state: State) -> Iterator[tuple[bytes, Fraction]]:
    """The keys that a packet is looked up by, one for each number that may be drawn."""
    drawn = next((operand for operand in key if isinstance(operand, Numgen)), None)
    numbers = range(drawn.offset, drawn.offset + drawn.modulus) if drawn else range(1)
    parts = [None if operand is drawn else _value(operand, state) for operand in key]
    for one in numbers:
        yield concatenated([number(one) if part is None else part for part in parts]), Fraction(1, len(numbers))


def _looked_up(mapped: Mapped, state: State, sets: Sets) -> Iterator[tuple[bytes | Verdict | None, Fraction]]:
    elements: Elements = sets[mapped.map].elements
    for key, chance in _keys(mapped.key, state):
        found = elements.get(key)
        yield found.data if found else None, chance


def _contains(held: Set, key: bytes) -> bool:
    if "interval" not in held.header.flags:
        return key in held.elements
    types = types_of(held.header.key)
    values = split(types, key)
    return any(_is_between(types, values, interval) for interval in held.elements)


def _is_between(types: Sequence[str], values: Sequence[bytes], interval: bytes) -> bool:
    half = len(interval) // 2
    bounds = zip(split(types, interval[:half]), values, split(types, interval[half:]))
    return all(low <= value <= high for low, value, high in bounds)
