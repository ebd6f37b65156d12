# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The places from which the scenarios' verification opens connections, as `inventory.yml` beside this lays them out."""

from __future__ import annotations

from dataclasses import dataclass

import testinfra
from testinfra.host import Host

from asking import Asking

NODES = {
    "node1": ("10.89.77.11", "fd00:89:77::11"),
    "node2": ("10.89.77.12", "fd00:89:77::12"),
    "node3": ("10.89.77.13", "fd00:89:77::13"),
}
CLIENT = ("10.89.77.100", "fd00:89:77::100")
BACKENDS = {
    "web1": ("10.10.1.11", "fd00:10:1::11"),
    "web2": ("10.10.1.12", "fd00:10:1::12"),
    "web3": ("10.10.2.11", "fd00:10:2::11"),
}
HOST_OF = {"web1": "node1", "web2": "node1", "web3": "node2"}
VIP_NETWORKS = ("10.100.100.0/24", "fd00:100::/64")


def machine(name: str) -> Host:
    """A container of the inventory."""
    return testinfra.get_host(f"podman://l4-{name}")


def held() -> str:
    """What the client's open connection has got so far."""
    return str(machine("client").file("/run/held").content_string)


@dataclass(frozen=True)
class Place(Asking):
    """Where a connection begins: a node, a backend behind its bridge, or the client, whose way to virtual IPs is a node.

    name: node1, web1 or client. gateway: the client's node.
    """

    name: str
    gateway: str | None = None

    def __str__(self) -> str:
        return f"{self.name} through {self.gateway}" if self.gateway else self.name

    @property
    def addresses(self) -> tuple[str, str]:
        """IPv4 and IPv6."""
        return {**NODES, **BACKENDS, "client": CLIENT}[self.name]

    def traffic(self, *words: str) -> str:
        host = machine(HOST_OF.get(self.name, self.name))
        if self.gateway:
            for network, via in zip(VIP_NETWORKS, NODES[self.gateway]):
                host.check_output(f"ip route replace {network} via {via}")
        inside = f"ip netns exec {self.name} " if self.name in HOST_OF else ""
        return str(host.check_output(f"{inside}traffic {' '.join(words)}"))


ON_NODES = [Place(name) for name in NODES]
ON_BACKENDS = [Place(name) for name in BACKENDS]
OUTSIDE = [Place("client", gateway) for gateway in NODES]
EVERYWHERE = [*ON_NODES, *ON_BACKENDS, *OUTSIDE]
