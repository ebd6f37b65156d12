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
    candidates = [backend for backend in service.backends if backend.family == family and backend.weight]
    return Pools(usable(candidates), usable([backend for backend in candidates if backend.node == node.name]))


def usable(backends: Sequence[Backend]) -> list[Backend]:
    """The ready backends; when there is none, those that still serve while they terminate (KEP-1669)."""
    ready = [backend for backend in backends if backend.ready]
    return ready or [backend for backend in backends if backend.serving and backend.terminating]
