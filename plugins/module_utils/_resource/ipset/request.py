# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of one ipset: the options of a task, checked, and set against the set that is there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..._model.fields import quoted
from ..._objects.ipset import (
    ALL_PORTS,
    DEFAULT_HASHSIZE,
    DEFAULT_MAXELEM,
    IPSET_FAMILIES,
    IPV4,
    MAX_HASHSIZE,
    MAX_TIMEOUT,
    MIN_HASHSIZE,
    NO_FAMILY,
    SET_TYPES,
    Entries,
    HeldSet,
    InvalidSetError,
    SetHeader,
    Wanted,
    is_hash,
)
from .elements import name_problem
from .entries import parse_entries

_FAMILY_WORDS = {
    **{family: family for family in IPSET_FAMILIES},
    **{word: family for family, word in IPSET_FAMILIES.items()},
}
FAMILY_CHOICES = tuple(_FAMILY_WORDS)
_PORT = re.compile("[0-9]{1,5}", re.ASCII)
_BOUNDS = {"timeout": (0, MAX_TIMEOUT), "hashsize": (1, MAX_HASHSIZE), "maxelem": (1, (1 << 32) - 1)}
_HASH_ONLY = ("hashsize", "maxelem")


class SetRequest(NamedTuple):
    """The options of a task. What is None was not given. entries: as written."""

    name: str
    present: bool
    type: str | None
    family: str | None
    timeout: int | None
    counters: bool | None
    comment: bool | None
    hashsize: int | None
    maxelem: int | None
    ports: tuple[int, int] | None
    entries: list[Any] | None
    exclusive: bool


def parse_request(params: Mapping[str, Any]) -> SetRequest:
    """From a module's parameters. Raises InvalidSetError; entries are left for `wanted_set`, when the type is known."""
    name = params["set"]
    problems = [problem for problem in [name_problem(name)] if problem]
    present = params["state"] == "present"
    for key, (low, high) in _BOUNDS.items():
        if params[key] is not None and not low <= params[key] <= high:
            problems.append(_wrong(name, key, params[key], f"an integer from {low} to {high}"))
    if params["exclusive"] and not present:
        problems.append(
            _wrong(name, "exclusive", True, "false with state absent, which removes the entries that are given")
        )
    if params["exclusive"] and params["entries"] is None:
        problems.append(_wrong(name, "exclusive", True, "given together with entries; an empty list empties the set"))
    ports = _parse_range(name, params["range"], problems)
    if params["type"] is not None:
        problems += _type_problems(params)
    if problems:
        raise InvalidSetError(problems)
    return SetRequest(
        name=name,
        present=present,
        family=_FAMILY_WORDS[params["family"]] if params["family"] else None,
        hashsize=None if params["hashsize"] is None else _rounded_hashsize(params["hashsize"]),
        ports=ports,
        **{key: params[key] for key in ("type", "timeout", "counters", "comment", "maxelem", "entries", "exclusive")},
    )


def _wrong(name: str, key: str, value: Any, allowed: str) -> str:
    return f'set "{name}": {key} is {quoted(value)}: must be {allowed}'


def _type_problems(params: Mapping[str, Any]) -> list[str]:
    """Options that this type of set does not have."""
    name, type_name = params["set"], params["type"]
    excess = [key for key in _HASH_ONLY if not is_hash(type_name)]
    excess += [] if SET_TYPES[type_name].has_family else ["family"]
    excess += [] if type_name == "bitmap:port" else ["range"]
    return [
        _wrong(name, key, params[key], f"left out, as type {type_name} has none")
        for key in excess
        if params[key] is not None
    ]


def _parse_range(name: str, text: str | None, problems: list[str]) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _dash, last = text.partition("-")
    if _PORT.fullmatch(first) and _PORT.fullmatch(last) and int(first) <= int(last) <= 65535:
        return int(first), int(last)
    problems.append(_wrong(name, "range", text, "two ports 1024-2047, the lower one first, from 0 to 65535"))
    return None


def _rounded_hashsize(size: int) -> int:
    """What the kernel makes of a hashsize: the next power of two."""
    return max(MIN_HASHSIZE, 1 << (size - 1).bit_length())


def wanted_set(request: SetRequest, held: HeldSet | None) -> Wanted:
    """The request against the set that is there, entries in canonical spelling. Raises InvalidSetError."""
    header = _new_header(request) if held is None else _changed_header(request, held)
    entries = parse_entries(header, request.entries or [])
    return Wanted(header, entries, request.exclusive)


def entries_to_remove(request: SetRequest, held: HeldSet | None) -> Entries | None:
    """Of a request for absence: which entries go, None for the whole set. Raises InvalidSetError."""
    if held is not None:
        _refuse_other(request, held)
    if request.entries is None:
        return None
    if held is None and request.type is None:
        return {}
    header = _new_header(request) if held is None else held.header
    everything = replace(header, timeout=0, comment=True, counters=True)
    return parse_entries(everything, request.entries)


def _new_header(request: SetRequest) -> SetHeader:
    if request.type is None:
        raise InvalidSetError(
            [f'set "{request.name}" does not exist: give its type to create it, one of {", ".join(SET_TYPES)}']
        )
    hashed = is_hash(request.type)
    return SetHeader(
        name=request.name,
        type=request.type,
        family=(request.family or IPV4) if SET_TYPES[request.type].has_family else NO_FAMILY,
        timeout=request.timeout,
        counters=bool(request.counters),
        comment=bool(request.comment),
        hashsize=(request.hashsize or DEFAULT_HASHSIZE) if hashed else None,
        maxelem=(request.maxelem or DEFAULT_MAXELEM) if hashed else None,
        ports=(request.ports or ALL_PORTS) if request.type == "bitmap:port" else None,
    )


def _refuse_other(request: SetRequest, held: HeldSet) -> None:
    """A set of another type or family is not ours to replace, and one that we cannot keep whole not ours to change."""
    problems = []
    if held.header.type not in SET_TYPES:
        problems.append(f'set "{request.name}" has type {held.header.type}: must be one of {", ".join(SET_TYPES)}')
    elif request.type not in (None, held.header.type):
        problems.append(
            f'set "{request.name}": type is {request.type}: must be {held.header.type}, '
            "as the set exists with that type; remove it first to change its type"
        )
    elif request.family not in (None, held.header.family):
        problems.append(
            f'set "{request.name}": family is {request.family}: must be {_existing_family(held.header)}; remove it first to change its family'
        )
    if held.extensions:
        problems.append(
            f'set "{request.name}" has {" and ".join(held.extensions)}, which cannot be kept by this module: remove the set first'
        )
    if problems:
        raise InvalidSetError(problems)


def _existing_family(header: SetHeader) -> str:
    if not header.family:
        return f"left out, as the set exists with type {header.type}, which has none"
    return f"{header.family}, as the set exists with that family"


def _changed_header(request: SetRequest, held: HeldSet) -> SetHeader:
    """The header of the set that is there, with what is given and differs.

    The hash of a set grows with its entries, so hashsize is a lower bound.
    """
    _refuse_other(request, held)
    header = held.header
    given: dict[str, Any] = {
        "type": header.type,
        "set": request.name,
        "range": request.ports and "-".join(map(str, request.ports)),
    }
    problems = _type_problems({**request._asdict(), **given})
    if problems:
        raise InvalidSetError(problems)
    changes = {
        key: getattr(request, key)
        for key in ("timeout", "counters", "comment", "maxelem", "ports")
        if getattr(request, key) is not None
    }
    if request.hashsize is not None and header.hashsize is not None:
        changes["hashsize"] = max(header.hashsize, request.hashsize)
    return replace(header, **changes)
