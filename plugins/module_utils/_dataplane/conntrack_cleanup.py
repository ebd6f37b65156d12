# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which flows in connection tracking no longer fit the services, and their removal once the services are applied.

UDP has no connections: a client that keeps sending from one port stays where its first packet was led, whatever the
rules have become, until its entry is removed. TCP and SCTP connections are left to finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional

from .._kernel.conntrack import NoConntrackError
from .._model import addresses as ip
from .._model.conflicts import Claim, claims
from .._model.service import Node, Service
from .._objects.conntrack import Endpoint, Flow
from . import backends as pools
from .interface import Tracking

Destination = tuple[str, Optional[str], int]
"""Address family, address (None: every address of the node that has node ports) and port."""


class Target(NamedTuple):
    """Where flows to one destination belong. backends: from where they may be answered; usable: whether a new flow would
    be led to one of them.
    """

    backends: frozenset[Endpoint]
    usable: bool


Targets = dict[Destination, Target]

_NOWHERE = Target(frozenset(), True)
"""Where flows to a service that is gone belong: whatever they have, a new one would be led elsewhere."""


class ConntrackCleanup(NamedTuple):
    """Which UDP flows a run has to judge, and by what."""

    targets: Targets
    node: Node
    tracking: Tracking

    def probe(self) -> None:
        """Raise ConntrackError where UDP services are concerned and entries cannot be read."""
        if self.targets:
            self.tracking.probe()

    def run(self, delete: bool) -> int:
        """Remove the flows that are stale now, or only count them. Reads nothing when no UDP service is concerned.

        Raises ConntrackError.
        """
        if not self.targets:
            return 0
        found = stale(self.tracking.flows(["udp"]), self.targets, self.node)
        return sum(map(self.tracking.delete, found)) if delete else len(found)


def plan_cleanup(
    services: Mapping[str, Iterable[Service]], had: Mapping[str, Iterable[Claim]], node: Node, tracking: Tracking
) -> ConntrackCleanup:
    """By address family: the services of a run as they will be, and what services had before it."""
    return ConntrackCleanup(udp_targets(services, had, node), node, tracking)


def families_with_connections(tracking: Tracking) -> set[str]:
    """The address families in which translated connections live on; none where the kernel does not tell. Raises ConntrackError."""
    try:
        return families_in_use(tracking.flows(["tcp", "sctp"]))
    except NoConntrackError:
        return set()


def udp_targets(services: Mapping[str, Iterable[Service]], gone: Mapping[str, Iterable[Claim]], node: Node) -> Targets:
    """Where UDP flows belong, after a run. By address family: services, as they are now; gone, what services had before."""
    targets: Targets = {}
    for family, taken in gone.items():
        targets.update(dict.fromkeys(_udp_destinations(taken, family), _NOWHERE))
    for family, present in services.items():
        for service in (one for one in present if one.protocol == "udp"):
            targets.update(dict.fromkeys(_udp_destinations(claims(service), family), _target(service, node, family)))
    return targets


def stale(flows: Iterable[Flow], targets: Targets, node: Node) -> list[Flow]:
    """The UDP flows that are led elsewhere than where they belong, or nowhere although they could be led somewhere.

    Flows of no target, and of other protocols, are not ours to judge.
    """
    node_ports = _NodePorts(node)
    udp = [(flow, node_ports.look_up(targets, flow)) for flow in flows if flow.protocol == "udp"]
    return [
        flow
        for flow, target in udp
        if target and flow.reply_source not in target.backends and (flow.translated or target.usable)
    ]


def families_in_use(flows: Iterable[Flow]) -> set[str]:
    """The address families in which connections live on that only go on while connection tracking does.

    Of services that went nothing is known any more: every translated connection may be one of theirs.
    """
    return {flow.family for flow in flows if flow.live and flow.translated and flow.protocol != "udp"}


def _udp_destinations(taken: Iterable[Claim], family: str) -> list[Destination]:
    return [
        (family, claim.address, claim.port)
        for claim in taken
        if claim.protocol == "udp" and (claim.address is None or ip.family_of(claim.address) == family)
    ]


def _target(service: Service, node: Node, family: str) -> Target:
    """A backend of weight 0 keeps what it has; so does one that is about to go, as long as it serves."""
    used = [one for one in service.backends if one.ready or (one.serving and one.terminating)]
    usable = bool(pools.choose(service, node, family).cluster)
    return Target(frozenset((one.address, one.port) for one in used), usable)


class _NodePorts:
    """The addresses on which a node has node ports."""

    def __init__(self, node: Node) -> None:
        self._addresses = frozenset(filter(node.has_node_ports, node.addresses))
        self._loopback = node.localhost_node_ports

    def look_up(self, targets: Targets, flow: Flow) -> Target | None:
        """Where a flow belongs; None when it goes to no destination of ours."""
        address, port = flow.destination
        found = targets.get((flow.family, address, port))
        if found is None and (address in self._addresses or (self._loopback and address.startswith("127."))):
            found = targets.get((flow.family, None, port))
        return found
