# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the ipvs dataplane cannot do of what users may ask for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..._model import addresses as ip
from ..._model.fields import quoted
from ..._model.service import DEFAULT_FORWARD_METHOD, Node, Service


def problems(services: Sequence[Service], node: Node) -> list[str]:
    """Return one line for each."""
    found = [
        f"service {quoted(service.name)}: {text}"
        for service in services
        if service.forward_method != DEFAULT_FORWARD_METHOD
        for text in _changed_ports(service)
    ]
    if node.localhost_node_ports:
        found.append(
            "node: localhost_node_ports is true: must be false with dataplane ipvs, which cannot serve 127.0.0.1"
        )
    return found


def _changed_ports(service: Service) -> list[str]:
    """Methods that hand packets on as they are also leave them their port."""
    method = service.forward_method
    found = [
        f"backends has {ip.endpoint(backend.address, backend.port)}: port must be {service.port}, the service's own, "
        f"with forward_method {method}, which changes no port"
        for backend in service.backends
        if backend.port != service.port
    ]
    if service.node_port is not None:
        found.append(
            f"node_port is {service.node_port}: must be null with forward_method {method}, which changes no port"
        )
    return found
