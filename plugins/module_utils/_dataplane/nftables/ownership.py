# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose the elements of our maps are. Pure.

What becomes of a connection to an address or node port says so in its comment; all else is found under the same key, or under the number
of the service, whose timeout says so in its comment, or of a backend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Callable, Optional

from ..._model import addresses as ip
from ..._objects.nftables import Element, Elements
from . import maps
from .maps import FRONTS, POOLS, Maps

OwnerOf = Callable[[bytes, Element], Optional[str]]


def owner_and_kind(element: Element) -> tuple[str, str]:
    """Return the name of the service and what its address is, as the comment has it; empty if it has none of ours."""
    owner, colon, kind = element.comment.partition(": ")
    return (owner, kind) if colon else ("", "")


def names(services: Mapping[str, Elements]) -> set[str]:
    """Return the services of which there is an address or a node port."""
    found = {owner_and_kind(one)[0] for front in FRONTS for one in services.get(front.services, {}).values()}
    return found - {""}


def numbers(services: Mapping[str, Elements]) -> set[int]:
    """Return the numbers that services with session affinity, and their backends, have."""
    return {
        maps.to_number(key)
        for name in (maps.AFFINITY_TIMEOUTS, maps.AFFINITY_BACKENDS)
        for key in services.get(name, ())
    }


def owners(services: Mapping[str, Elements], family: str) -> dict[str, OwnerOf]:
    """Return, for each map of services, what tells the owner of an element; None for what nobody owns."""
    found: dict[str, OwnerOf] = {}
    for front in FRONTS:
        by_key = {key: owner_and_kind(one)[0] for key, one in services.get(front.services, {}).items()}
        found.update(_of_front(front, by_key))
    address = ip.bits(family) // 8
    of_service, size = found[maps.SERVICES], address + len(maps.port_bytes("tcp", 1))
    found[maps.GUARDED] = of_service
    found[maps.SOURCE_RANGES] = lambda key, element: of_service(key[:size], element)
    found.update(_of_numbers(services))
    return found


def without(services: Mapping[str, Elements], gone: Collection[str], family: str) -> Maps:
    """Return the elements that somebody owns who is not among these."""
    kept: Maps = {}
    for name, owner_of in owners(services, family).items():
        for key, element in services.get(name, {}).items():
            owner = owner_of(key, element)
            if owner and owner not in gone:
                kept.setdefault(name, {})[key] = element
    return kept


def changed_owners(wanted: Mapping[str, Elements], held: Mapping[str, Elements], family: str) -> set[str]:
    """Return the services of which an element is there on one side only, or is another."""
    found: set[str | None] = set()
    for these, others in ((wanted, held), (held, wanted)):
        differing = {name: _without(these.get(name, {}), others.get(name, {})) for name in maps.OF_SERVICES}
        if any(differing.values()):
            owner_of = owners(these, family)
            found.update(owner_of[name](*item) for name, elements in differing.items() for item in elements.items())
    return {name for name in found if name}


def _without(elements: Elements, others: Elements) -> Elements:
    if elements == others:
        return {}
    return {key: element for key, element in elements.items() if others.get(key) != element}


def _of_front(front: maps.Front, by_key: Mapping[bytes, str]) -> dict[str, OwnerOf]:
    def of_service(key: bytes, _element: Element) -> str | None:
        return by_key.get(key)

    def of_slot(key: bytes, _element: Element) -> str | None:
        return by_key.get(key[: -maps.NUMBER_BYTES])

    whole = (front.services, front.insiders, front.outsiders, front.affinity)
    return {**dict.fromkeys(whole, of_service), **dict.fromkeys((front.endpoints, front.local_endpoints), of_slot)}


def _of_numbers(services: Mapping[str, Elements]) -> dict[str, OwnerOf]:
    by_number: dict[object, str] = {key: one.comment for key, one in services.get(maps.AFFINITY_TIMEOUTS, {}).items()}
    of_backends: dict[object, str] = {
        one.data: by_number.get(key[: maps.NUMBER_BYTES], "")
        for pool in POOLS
        for key, one in services.get(pool.slots, {}).items()
    }
    by_number = {**of_backends, **by_number}

    def of_number(key: bytes, _element: Element) -> str | None:
        return by_number.get(key[: maps.NUMBER_BYTES])

    own = [maps.AFFINITY_TIMEOUTS, maps.AFFINITY_BACKENDS]
    own += [name for pool in POOLS for name in (pool.members, pool.slots, pool.pools)]
    return dict.fromkeys(own, of_number)
