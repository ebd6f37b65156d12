# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipsets of the ipvs dataplane, which keep its rules few, and what they tell of the services. Pure.

The entries of ``VIP``, ``EXTERNAL`` and ``LOCAL`` are the record of what is ours in IPVS: each stands for one virtual service,
and its comment says whose it is (``NAME: kind``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.ipset import MIN_HASHSIZE, Entries, Entry, SetHeader
from ..._objects.ipvs import HeldService, ServiceKey
from .compile import EXTERNAL_IP, KINDS, NODE_PORT, VIP, Frontend, Frontends, bound_addresses
from .names import SET_TYPES, SetNames

_MOST_ENTRIES = 1 << 20
_RECORD = {"VIP": "vip", "EXTERNAL": "external", "LOCAL": "local"}
"""The sets that tell of each virtual service whose connections are masqueraded."""
WITHOUT_COMMENT = ("BOUND", "LOOP-BACK")
"""The sets that do not tell of which service an entry is."""


class WantedSet(NamedTuple):
    """A set with everything that it is to hold."""

    header: SetHeader
    entries: Entries


def wanted_sets(frontends: Frontends, node: Node) -> dict[str, WantedSet]:
    """By name; a family without services has none."""
    result: dict[str, WantedSet] = {}
    for family in ip.FAMILIES:
        own = [one for one in frontends.values() if one.key.family == family]
        if own:
            names = SetNames(node.chain_prefix, family)
            for what, entries in _entries(own, node).items():
                held = {entry.element: entry for entry in entries}
                result[names[what]] = WantedSet(_header(names[what], what, family), held)
    return result


def _header(name: str, what: str, family: str) -> SetHeader:
    return SetHeader(
        name,
        SET_TYPES[what],
        family,
        comment=what not in WITHOUT_COMMENT,
        hashsize=MIN_HASHSIZE,
        maxelem=_MOST_ENTRIES,
    )


def _entries(frontends: list[Frontend], node: Node) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {what: [] for what in SET_TYPES}
    record = {masquerade: found[what] for what, masquerade in _RECORD.items()}
    for one in frontends:
        element = _element(one.key)
        entry = Entry(element, comment=f"{one.service}: {one.kind}" if one.service else "")
        record[one.masquerade].append(entry)
        if one.rejects:
            found["REJECT"].append(entry)
        if is_one_way(one):
            found["ONE-WAY"].append(entry)
        if one.sources is not None:
            found["GUARDED"].append(entry)
            found["SOURCES"] += [entry._replace(element=f"{element},{source}") for source in one.sources]
    found["BOUND"] = [Entry(address) for address in sorted(bound_addresses(frontends, node), key=ip.sort_key)]
    found["LOOP-BACK"] = [Entry(element) for element in sorted(hairpins(frontends))]
    return found


def is_one_way(frontend: Frontend) -> bool:
    """Whether its answers do not come back through this node."""
    destinations = frontend.virtual.destinations.values() if frontend.virtual else ()
    return any(one.forward_method != "masquerade" for one in destinations)


def _element(key: ServiceKey) -> str:
    return f"{key.address},{key.protocol}:{key.port}"


def hairpins(frontends: Iterable[Frontend]) -> set[str]:
    """Connections of a backend to itself, which IPVS would leave with its own address as source."""
    return {
        f"{one.address},{frontend.key.protocol}:{one.port},{one.address}"
        for frontend in frontends
        if frontend.virtual
        for one in frontend.virtual.destinations.values()
        if one.forward_method == "masquerade"
    }


def recorded_frontends(
    sets: Mapping[str, Entries], virtual: Mapping[ServiceKey, HeldService], prefix: str
) -> Frontends:
    """What the sets say of our virtual services, with what the kernel has for each. sets: entries by the set's name."""
    result: Frontends = {}
    for family in ip.FAMILIES:
        names = SetNames(prefix, family)
        held = {what: sets.get(names[what], {}) for what in SET_TYPES}
        sources = _sources(held["SOURCES"])
        for what, masquerade in _RECORD.items():
            for element, entry in held[what].items():
                key = _key(element, family)
                if key is not None:
                    result[key] = Frontend(
                        key,
                        *_owner(entry.comment, masquerade),
                        masquerade,
                        element in held["REJECT"],
                        tuple(sorted(sources.get(element, ()))) if element in held["GUARDED"] else None,
                        virtual.get(key),
                    )
    return result


def _owner(comment: str | None, masquerade: str) -> tuple[str, str]:
    """Service and kind, as the comment of an entry says."""
    name, dummy, kind = (comment or "").partition(": ")
    return (name, kind) if kind in KINDS else ("", VIP if masquerade == "vip" else EXTERNAL_IP)


def _key(element: str, family: str) -> ServiceKey | None:
    """None for an element that is not of ours, such as one of another protocol."""
    address, dummy, rest = element.partition(",")
    protocol, dummy, port = rest.partition(":")
    return ServiceKey(family, protocol, address, int(port), 0) if protocol in ("tcp", "udp", "sctp") else None


def _sources(held: Entries) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for element in held:
        destination, dummy, source = element.rpartition(",")
        result.setdefault(destination, []).append(source)
    return result


def unrecorded(key: ServiceKey, virtual: HeldService, node: Node) -> Frontend:
    """A virtual service of ours of which the record is lost."""
    kind = NODE_PORT if key.address in node.addresses else VIP
    masquerade = "external" if kind == NODE_PORT else "vip"
    return Frontend(key, "", kind, masquerade, False, None, virtual)
