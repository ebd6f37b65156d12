# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services reduced to what the checks of a node ask of them: little enough for a cache to keep it of ten thousand. Pure."""

from __future__ import annotations

from typing import NamedTuple


class ServiceFacts(NamedTuple):
    """What the checks of a node need to know of its services."""

    families: frozenset[str] = frozenset()
    """Address families in which a service answers."""
    local_backend_families: frozenset[str] = frozenset()
    """Address families in which a backend is an address of this node."""
    has_node_port: bool = False
    addresses: frozenset[str] = frozenset()
    """Every address at which a service answers, but for node ports."""
    unmasqueraded_backends: frozenset[str] = frozenset()
    """Addresses of backends to which local sources come under their own address."""
    warnings: tuple[str, ...] = ()
    """What is allowed in services, but hardly meant: one line each."""

    def __or__(self, other: ServiceFacts) -> ServiceFacts:
        """Return the facts of the services of both."""
        return ServiceFacts(
            self.families | other.families,
            self.local_backend_families | other.local_backend_families,
            self.has_node_port or other.has_node_port,
            self.addresses | other.addresses,
            self.unmasqueraded_backends | other.unmasqueraded_backends,
            (*self.warnings, *other.warnings),
        )
