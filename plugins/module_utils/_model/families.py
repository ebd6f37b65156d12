# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The address families in which services answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from . import addresses as ip
from .service import Node, Service


def service_families(service: Service, node: Node) -> list[str]:
    """The families in which a service answers, be it by rejecting.

    Those of its addresses. A service that has only a node port answers in those of its backends, and without backends in
    every family that the node has.
    """
    found = set(map(ip.family_of, service.addresses))
    if not found:
        found = {backend.family for backend in service.backends}
        found = found or {ip.family_of(address) for address in node.addresses} or set(ip.FAMILIES)
    return [family for family in ip.FAMILIES if family in found]


def by_family(services: Iterable[Service], node: Node) -> dict[str, list[Service]]:
    """The services that answer in each address family."""
    found: dict[str, list[Service]] = {family: [] for family in ip.FAMILIES}
    for service in services:
        for family in service_families(service, node):
            found[family].append(service)
    return found
