# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new connection meets on a node of the ipvs dataplane: the chains, the sets that they match, and the virtual services. Pure.

IPVS has what comes in behind the filter table's INPUT, and what the node itself sends before its OUTPUT (``ip_vs_ops4``).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Callable

from ..._model import addresses as ip
from ..._objects.iptables import Desired
from ..._objects.ipvs import Destination, HeldService, ServiceKey, destination_line, service_line
from ..netfilter.walk import Branches, Walk, merged
from ..packet import Packet, Trace
from .compile import Frontends
from .sets import WantedSet

_IPVS = ("ipvs", "")
"""Where steps in IPVS are, in place of table and chain."""
_BY_WEIGHT = ("wrr", "wlc", "sed", "nq", "sh", "mh", "twos")
_BY_GREATEST_WEIGHT = ("fo", "ovf")
_REWRITING = "masquerade"
"""The forward method; the others send a packet on as it is."""


def trace_ipvs(state: Desired, frontends: Frontends, sets: Mapping[str, WantedSet], packet: Packet) -> Trace:
    """Follow a packet that comes to a node in this state, or (its source is local) leaves from it. Raises UnknownRule.

    packet: its local addresses are those of the node, and of the services that are bound.
    """
    walk = Walk(state, partial(_in_set, sets))
    way = _Way(walk, frontends)
    outcomes = way.of_sent(packet) if packet.is_local(packet.source) else way.of_received(packet)
    steps = walk.steps()
    return Trace(outcomes, steps, any(step.table == _IPVS[0] and " -p " in step.rule for step in steps))


def shares(scheduler: str, destinations: list[Destination]) -> dict[Destination, Fraction]:
    """Of new clients, where their connections last alike; which client is led where a hash may decide."""
    weights = {one: one.weight for one in destinations if one.weight}
    if scheduler in _BY_GREATEST_WEIGHT:
        greatest = [one for one in weights if one.weight == max(weights.values())][:1]
        weights = dict.fromkeys(greatest, 1)
    elif scheduler not in _BY_WEIGHT:
        weights = dict.fromkeys(weights, 1)
    whole = sum(weights.values())
    return {one: Fraction(weight, whole) for one, weight in weights.items()}


class _Way:
    """The way of packets through netfilter's hooks and IPVS."""

    def __init__(self, walk: Walk, frontends: Frontends) -> None:
        self._walk, self._frontends = walk, frontends

    def of_received(self, packet: Packet) -> Branches:
        walk = self._walk
        arrived = self._nat("PREROUTING", walk.through("raw", "PREROUTING", {packet: Fraction(1)}))
        if not packet.is_local(packet.destination):
            return self._nat("POSTROUTING", walk.through("filter", "FORWARD", arrived))
        led = self._lead(walk.through("filter", "INPUT", arrived))
        leaving, staying = _parted(led, lambda one: bool(one.forwarded) and not one.is_local(one.destination))
        return merged(staying, self._leave(leaving))

    def of_sent(self, packet: Packet) -> Branches:
        walk = self._walk
        sent = walk.through("mangle", "OUTPUT", walk.through("raw", "OUTPUT", {packet: Fraction(1)}))
        left = self._leave(self._lead(self._nat("OUTPUT", sent)))
        delivered, gone = _parted(left, lambda one: one.is_local(one.destination) and not one.forwarded)
        return merged(gone, walk.through("filter", "INPUT", delivered))

    def _leave(self, going: Branches) -> Branches:
        """Those that are not rewritten have left by then (`_scheduled`)."""
        rewritten, left = _parted(going, lambda one: one.forwarded in ("", _REWRITING))
        return merged(left, self._nat("POSTROUTING", self._walk.through("filter", "OUTPUT", rewritten)))

    def _nat(self, hook: str, going: Branches) -> Branches:
        """What connection tracking does not see has no way through this table."""
        tracked, untracked = _parted(going, lambda one: one.tracked)
        return merged(untracked, self._walk.through("nat", hook, tracked))

    def _lead(self, arrived: Branches) -> Branches:
        """Each packet to the destinations of its virtual service; one that has none goes on as it is."""
        led: Branches = {}
        for packet, chance in arrived.items():
            held = None if packet.verdict else self._virtual_service(packet)
            led = merged(led, self._scheduled(held, packet, chance) if held else {packet: chance})
        return led

    def _virtual_service(self, packet: Packet) -> HeldService | None:
        """The one that takes this packet, unless it has nobody to lead it to."""
        key = ServiceKey(ip.family_of(packet.destination), packet.protocol, packet.destination, packet.port, 0)
        frontend = self._frontends.get(key)
        held = frontend.virtual if frontend else None
        return held if held and any(one.weight for one in held.destinations.values()) else None

    def _scheduled(self, held: HeldService, packet: Packet, chance: Fraction) -> Branches:
        """A packet that is not rewritten leaves with the address of its service on it."""
        service = held.service
        self._walk.count(_IPVS, 0, service_line(service), chance)
        result: Branches = {}
        for one, share in shares(service.scheduler, list(held.destinations.values())).items():
            self._walk.count(_IPVS, 0, destination_line(service.key, one), chance * share)
            led = {packet._replace(forwarded=one.forward_method): chance * share}
            if one.forward_method != _REWRITING:
                led = self._walk.through("filter", "OUTPUT", led)
            there = {found._replace(destination=one.address, port=one.port): part for found, part in led.items()}
            result = merged(result, there)
        return result


def _parted(going: Branches, condition: Callable[[Packet], bool]) -> tuple[Branches, Branches]:
    """Those for which the condition holds, and the others."""
    held = {one: chance for one, chance in going.items() if condition(one)}
    return held, {one: chance for one, chance in going.items() if one not in held}


def _in_set(sets: Mapping[str, WantedSet], packet: Packet, name: str, parts: str) -> bool:
    """A source port is none of those that services are at."""
    entries = sets[name].entries
    first, *others = parts.split(",")
    ends = {"src": packet.source, "dst": packet.destination}
    element = ends[first]
    if others:
        if others[0] == "src":
            return False
        element += f",{packet.protocol}:{packet.port}"
    if len(others) < 2:
        return element in entries
    networks = (one.rpartition(",")[2] for one in entries if one.startswith(element + ","))
    return any(ip.contains(network, ends[others[1]]) for network in networks)
