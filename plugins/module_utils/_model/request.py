# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task asks for of a node's services. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .service import Check, Node, Service, parse_names, parse_services


class Request(NamedTuple):
    """What a node's services shall be."""

    state: str
    """``present`` or ``absent``."""
    services: Sequence[Any]
    """As users write them; with state absent only their names count."""
    exclusive: bool
    """Whether services that are not listed are removed; with state absent all are."""
    dataplane: str
    removed: frozenset[str] = frozenset()
    """Names of further services to remove. Only narrowed requests have some (`interface.Observation`)."""
    unchanged: Sequence[Any] = ()
    """Services over UDP that are as asked for, but whose flows are judged nevertheless. Only narrowed requests have some."""

    def parse(self, node: Node, check: Check) -> tuple[list[Service], frozenset[str]]:
        """Return the services that there are to be, and the names of all that are listed or removed. Raises InvalidServices."""
        if self.state == "absent":
            return [], self.removed.union(parse_names(self.services))
        services = parse_services(self.services, node, check)
        return services, self.removed.union(service.name for service in services)
