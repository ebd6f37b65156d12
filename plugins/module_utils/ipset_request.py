# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of one ipset: the options of a task, checked, and set against the set that is there. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from .fields import quoted
from .ipset_elements import name_problem
from .ipset_entries import InvalidSetError, parse_entries
from .ipset_types import (
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
    SetHeader,
    is_hash,
)

_FAMILY_WORDS = {
    **{family: family for family in IPSET_FAMILIES},
    **{word: family for family, word in IPSET_FAMILIES.items()},
}
FAMILY_CHOICES = tuple(_FAMILY_WORDS)
_BOUNDS = {"timeout": (0, MAX_TIMEOUT), "hashsize": (1, MAX_HASHSIZE), "maxelem": (1, (1 << 32) - 1)}
_HASH_ONLY = ("hashsize", "maxelem")


class SetRequest(NamedTuple):
    """The options of a task. What is None was not given. entries: as written."""

    name: str
    present: bool
    type: Optional[str]
    family: Optional[str]
    timeout: Optional[int]
    counters: Optional[bool]
    comment: Optional[bool]
    hashsize: Optional[int]
    maxelem: Optional[int]
    ports: Optional[Tuple[int, int]]
    entries: Optional[List[Any]]
    exclusive: bool


class Wanted(NamedTuple):
    """A set as it is to be: its header, the entries that it is to have, and whether it is to have no others."""

    header: SetHeader
    entries: Entries
    exclusive: bool


def parse_request(params: Mapping[str, Any]) -> SetRequest:
    """From a module's parameters. Raises InvalidSetError; entries are left for `wanted_set`, when the type is known."""
    name = params["set"]
    problems = [problem for problem in [name_problem(name)] if problem]
    present = params["state"] == "present"
    for key, (low, high) in _BOUNDS.items():
        if params[key] is not None and not low <= params[key] <= high:
            problems.append(_wrong(name, key, params[key], "an integer from %d to %d" % (low, high)))
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
    return 'set "%s": %s is %s: must be %s' % (name, key, quoted(value), allowed)


def _type_problems(params: Mapping[str, Any]) -> List[str]:
    """Options that this type of set does not have."""
    name, type_name = params["set"], params["type"]
    excess = [key for key in _HASH_ONLY if not is_hash(type_name)]
    excess += [] if SET_TYPES[type_name].has_family else ["family"]
    excess += [] if type_name == "bitmap:port" else ["range"]
    return [
        _wrong(name, key, params[key], "left out, as type %s has none" % type_name)
        for key in excess
        if params[key] is not None
    ]


def _parse_range(name: str, text: Optional[str], problems: List[str]) -> Optional[Tuple[int, int]]:
    if text is None:
        return None
    first, _dash, last = text.partition("-")
    if first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and int(first) <= int(last) <= 65535:
        return int(first), int(last)
    problems.append(_wrong(name, "range", text, "two ports 1024-2047, the lower one first, from 0 to 65535"))
    return None


def _rounded_hashsize(size: int) -> int:
    """What the kernel makes of a hashsize: the next power of two."""
    return max(MIN_HASHSIZE, 1 << (size - 1).bit_length())


def wanted_set(request: SetRequest, held: Optional[HeldSet]) -> Wanted:
    """The request against the set that is there, entries in canonical spelling. Raises InvalidSetError."""
    header = _new_header(request) if held is None else _changed_header(request, held)
    entries = parse_entries(header, request.entries or [])
    return Wanted(header, entries, request.exclusive)


def entries_to_remove(request: SetRequest, held: Optional[HeldSet]) -> Optional[Entries]:
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
            ['set "%s" does not exist: give its type to create it, one of %s' % (request.name, ", ".join(SET_TYPES))]
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
        problems.append(
            'set "%s" has type %s: must be one of %s' % (request.name, held.header.type, ", ".join(SET_TYPES))
        )
    elif request.type not in (None, held.header.type):
        problems.append(
            'set "%s": type is %s: must be %s, as the set exists with that type; remove it first to change its type'
            % (request.name, request.type, held.header.type)
        )
    elif request.family not in (None, held.header.family):
        problems.append(
            'set "%s": family is %s: must be %s; remove it first to change its family'
            % (request.name, request.family, _existing_family(held.header))
        )
    if held.extensions:
        problems.append(
            'set "%s" has %s, which cannot be kept by this module: remove the set first'
            % (request.name, " and ".join(held.extensions))
        )
    if problems:
        raise InvalidSetError(problems)


def _existing_family(header: SetHeader) -> str:
    if not header.family:
        return "left out, as the set exists with type %s, which has none" % header.type
    return "%s, as the set exists with that family" % header.family


def _changed_header(request: SetRequest, held: HeldSet) -> SetHeader:
    """The header of the set that is there, with what is given and differs.

    The hash of a set grows with its entries, so hashsize is a lower bound.
    """
    _refuse_other(request, held)
    header = held.header
    given: Dict[str, Any] = {
        "type": header.type,
        "set": request.name,
        "range": request.ports and "%d-%d" % request.ports,
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
