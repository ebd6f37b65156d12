# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Building the lab and taking it down.

A switch joins the nodes and the client; each node has a bridge br0 with its backends behind it, routes to the other
nodes' bridges, the client as default gateway, and forwards nothing until it is told to. Only nodes get a view of their
own; backends and client are plain namespaces.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path

from .hosts import VIEWS_DIRECTORY, Host
from .namespaces import NETNS_DIRECTORY, Namespace, link
from .serve import LISTENING
from .topology import INVENTORY, Machine, Topology, load, network_of, with_prefix

CHECKOUT = Path(__file__).resolve().parent.parent
BRIDGE = "br0"
UPLINK = "eth0"
SWITCH = "switch"
BRIDGE_FILTERS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


class Lab:
    """The lab of one inventory directory. Labs of different `lab_prefix` can stand side by side."""

    def __init__(self, inventory: Path = INVENTORY) -> None:
        self.inventory = inventory

    @cached_property
    def topology(self) -> Topology:
        return load(self.inventory)

    def namespace(self, machine: str) -> Namespace:
        name = self.topology.namespace_name(machine)
        return Host(name, machine) if machine in self.topology.nodes else Namespace(name)

    @property
    def switch(self) -> Namespace:
        return self.namespace(SWITCH)

    def standing(self) -> bool:
        """Whether the lab is complete: the servers start last, and run on the switch."""
        return self.switch.exists() and bool(self.switch.processes())

    def up(self) -> None:
        """Build the lab unless it stands; CalledProcessError or NetlinkError, with nothing left behind, when it cannot be built."""
        if self.standing():
            return
        self.down()
        try:
            self._build()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove the lab, also what an interrupted run left of it."""
        remove(self.topology.prefix)

    def _build(self) -> None:
        topology = self.topology
        load_bridge_filter()
        for name in (SWITCH, *topology.nodes, *topology.backends, topology.client.name):
            self.namespace(name).create()
        self.switch.add_bridge(BRIDGE)
        for machine in (*topology.nodes.values(), topology.client):
            self._plug(machine, self.switch)
        for node in topology.nodes.values():
            self._furnish_node(node)
        for backend in topology.backends.values():
            self._plug(backend, self.namespace(backend.node))
            self._default_routes(backend, topology.nodes[backend.node].bridge)
        for destination, via in topology.client.routes.items():
            version = ip_network(destination).version
            self.namespace(topology.client.name).add_route(destination, "via", topology.nodes[via].address(version))
        self._serve()

    def _plug(self, machine: Machine, into: Namespace) -> None:
        """Connect the machine's uplink to the bridge of `into`, where the port has the machine's name."""
        namespace = self.namespace(machine.name)
        link(namespace, UPLINK, into, machine.name)
        into.add_ports(BRIDGE, machine.name)
        namespace.add_address(UPLINK, *map(with_prefix, machine.addresses))

    def _furnish_node(self, node: Machine) -> None:
        """Forwarding is forbidden, as on hosts with Docker or a firewall: what is to pass must be let pass."""
        namespace = self.namespace(node.name)
        namespace.add_bridge(BRIDGE, addresses=[with_prefix(address) for address in node.bridge])
        self._default_routes(node, self.topology.client.addresses)
        for command in ("iptables", "ip6tables"):
            namespace.run(command, "-P", "FORWARD", "DROP")
        for other in self.topology.nodes.values():
            if other == node:
                continue
            for address in other.bridge:
                gateway = other.address(ip_address(address).version)
                namespace.add_route(network_of(address), "via", gateway)

    def _default_routes(self, machine: Machine, gateways: tuple[str, ...]) -> None:
        namespace = self.namespace(machine.name)
        for gateway in gateways:
            namespace.add_route("::/0" if ":" in gateway else "0.0.0.0/0", "via", gateway)

    def _serve(self) -> None:
        """Start the servers; they end with the switch, in which their process lives, and hold none of our streams."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.switch.name, sys.executable, "-m", "lab.serve", str(self.inventory.resolve())],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            said = process.stdout.readline()
            if said != LISTENING:
                said += process.stdout.read()
                raise subprocess.CalledProcessError(process.wait(), process.args, stderr=said)


def load_bridge_filter() -> None:
    """Load br_netfilter where it is a module that nobody loaded yet, without effect on bridges outside the lab."""
    settings = Path("/proc/sys/net/bridge")
    if settings.exists():
        return
    subprocess.run(["modprobe", "br_netfilter"], check=True, capture_output=True, text=True)
    for name in BRIDGE_FILTERS:
        (settings / name).write_text("0")


def remove(prefix: str) -> None:
    """Remove every namespace and view of labs with this prefix; the servers on the switch go first."""
    Namespace(f"{prefix}-{SWITCH}").delete()
    for directory in (NETNS_DIRECTORY, VIEWS_DIRECTORY):
        for path in sorted(directory.glob(f"{prefix}-*")):
            Host(path.name).delete()
