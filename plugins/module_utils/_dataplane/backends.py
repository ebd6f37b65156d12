# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backends may be chosen, the same for every dataplane. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._model.service import Backend, Node, Service


class Pools(NamedTuple):
    """The backends for new connections: of the whole cluster, and of this node alone."""

    cluster: list[Backend]
    local: list[Backend]


def choose(service: Service, node: Node, family: str) -> Pools:
    """Both pools in one family; each makes its choice for itself."""
    candidates = [backend for backend in service.backends if backend.weight and backend.family == family]
    local = [backend for backend in candidates if backend.node == node.name]
    cluster = _lowest_tier(_usable(candidates))
    return Pools(_near(cluster, service.traffic_distribution, node), _lowest_tier(_usable(local)))


def _usable(backends: Sequence[Backend]) -> Sequence[Backend]:
    """The ready backends; when there is none, those that still serve while they terminate (KEP-1669)."""
    ready = [backend for backend in backends if backend.ready]
    return ready or [backend for backend in backends if backend.serving and backend.terminating]


def _lowest_tier(backends: Sequence[Backend]) -> list[Backend]:
    """Those that are no spares for others of them."""
    lowest = min({backend.tier for backend in backends}, default=0)
    return [backend for backend in backends if backend.tier == lowest]


def _near(backends: Sequence[Backend], distribution: str, node: Node) -> list[Backend]:
    """Those that a service prefers; all, where there is none."""
    if distribution == "any":
        return list(backends)
    found = [one for one in backends if one.node == node.name]
    if distribution == "prefer_zone":
        found = [one for one in backends if node.zone is not None and one.zone == node.zone]
    return found or list(backends)
