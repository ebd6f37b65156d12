# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connection tracking brought in line with the services, once their rules are applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple, Protocol

from .._kernel.conntrack import NoConntrackError
from .._model.service import Node, Service
from .._objects.conntrack import Flow
from .._objects.iptables import Observed
from .netfilter.names import Layout, owner_of
from .netfilter.readback import entries
from .udp_flows import Targets, families_in_use, stale, udp_targets


class Tracking(Protocol):
    """What is needed of connection tracking (`kernel.conntrack.Conntrack`)."""

    def probe(self) -> None:
        """Raise ConntrackError where entries cannot be read."""

    def flows(self, protocols: Iterable[str]) -> list[Flow]:
        """The entries that have one of these protocols."""

    def delete(self, flow: Flow) -> bool:
        """Remove an entry; False when it was gone already."""


class Reconciliation(NamedTuple):
    """Which UDP flows a run has to judge, and by what."""

    targets: Targets
    node: Node
    tracking: Tracking

    def run(self, delete: bool) -> int:
        """Remove the flows that are stale now, or only count them. Reads nothing when no UDP service is concerned.

        Raises ConntrackError.
        """
        if not self.targets:
            return 0
        found = stale(self.tracking.flows(["udp"]), self.targets, self.node)
        return sum(map(self.tracking.delete, found)) if delete else len(found)


def plan_reconciliation(
    wanted: Mapping[str, Sequence[Service]],
    observed: Mapping[str, Observed],
    concerns: Callable[[str], bool],
    node: Node,
    tracking: Tracking,
) -> Reconciliation:
    """By address family: the services of a run, and what the kernel holds before it. concerns: whether a service is one that
    the run names or removes. Raises ConntrackError where UDP services are concerned and entries cannot be read.
    """
    layout = Layout(node.chain_prefix)
    had = {
        family: [entry.claim for entry in entries(held, layout, lambda rule: concerns(owner_of(rule) or ""))]
        for family, held in observed.items()
    }
    targets = udp_targets(wanted, had, node)
    if targets:
        tracking.probe()
    return Reconciliation(targets, node, tracking)


def families_with_connections(tracking: Tracking) -> set[str]:
    """The address families in which translated connections live on; none where the kernel does not tell. Raises ConntrackError."""
    try:
        return families_in_use(tracking.flows(["tcp", "sctp"]))
    except NoConntrackError:
        return set()
