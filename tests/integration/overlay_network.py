# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three nodes of which nobody has told the network what is behind them, in one network or with a router in between.

    client 203.0.113.100 ── router ─┬─ node1 192.0.2.1 ── br0 10.0.1.1/24 ── b1 10.0.1.11
                                    ├─ node2 ........2 ── br0 10.0.2.1/24 ── b2 10.0.2.11
                                    └─ node3 ........3    (no backends)

The same in IPv6. The router knows its own networks and that of the virtual IPs, which leads to node1, and drops all that comes from
elsewhere. With a router in between, the nodes are in 192.0.2.0/24, 192.0.3.0/24 and 192.0.4.0/24.
"""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from network import IPV4, IPV6

from lab.hosts import Host
from lab.namespaces import Namespace, link
from lab.traffic import Servers, Tally, connect
from playbooks import Controller

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

NODES = ("node1", "node2", "node3")
PORT = 8080
CLIENT = {IPV4: "203.0.113.100", IPV6: "2001:db8:113::100"}
BACKENDS = {
    "b1": {IPV4: "10.0.1.11", IPV6: "fd00:1::11"},
    "b2": {IPV4: "10.0.2.11", IPV6: "fd00:2::11"},
}
CIDRS = {"node1": ["10.0.1.0/24", "fd00:1::/64"], "node2": ["10.0.2.0/24", "fd00:2::/64"], "node3": []}
VIPS = {IPV4: ("10.96.0.1", "10.96.0.2", "10.96.0.3"), IPV6: ("fd96::1", "fd96::2", "fd96::3")}
"""To b1, to b2, and to both."""
OVERLAY = r"""
ip -d link show dev l4-vxlan0 2> /dev/null | grep -o 'mtu [0-9]*\|vxlan id.*dstport [0-9]*'
ip -o address show dev l4-vxlan0 2> /dev/null | awk '{print $3, $4}'
bridge fdb show dev l4-vxlan0 2> /dev/null; ip neigh show dev l4-vxlan0 nud permanent; ip route show proto 76; ip -6 route show proto 76
"""
_PREFIX = {IPV4: 24, IPV6: 64}
_numbers = count()


class OverlayNetwork:
    """A context manager. apart: whether there is a router between the nodes."""

    def __init__(self, directory: Path, *, apart: bool) -> None:
        self.controller, self.apart = Controller(directory), apart
        prefix = f"l4o{os.getpid()}n{next(_numbers)}"
        self.nodes = {name: Host(f"{prefix}-{name}") for name in NODES}
        self.machines = {name: Namespace(f"{prefix}-{name}") for name in ("router", "client", *BACKENDS)}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            for one in (*self.nodes.values(), *self.machines.values()):
                stack.enter_context(one)
            self._wire()
            servers = stack.enter_context(Servers())
            for name, addresses in BACKENDS.items():
                for address in addresses.values():
                    for protocol in ("tcp", "udp"):
                        servers.serve(self.machines[name], name, address, PORT, protocol, keep_open=False)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, node: str, family: str) -> str:
        """Of a node, towards the others."""
        number = NODES.index(node) + 1
        network = number if self.apart else 1
        return f"192.0.{network + 1}.{number}" if family == IPV4 else f"2001:db8:{network}::{number}"

    def _wire(self) -> None:
        router, client = self.machines["router"], self.machines["client"]
        link(client, "eth0", router, "client")
        for family, address in CLIENT.items():
            client.add_address("eth0", f"{address}/{_PREFIX[family]}")
            router.add_address("client", f"{_first(address)}/{_PREFIX[family]}")
        for node in NODES:
            link(self.nodes[node], "eth0", router, node)
        if not self.apart:
            router.add_bridge("lan", *NODES)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter"):
            router.sysctl(name, 1)
        for node in NODES:
            self._address(node)
        for family, network in ((IPV4, "10.96.0.0/16"), (IPV6, "fd96::/64")):
            router.add_route(network, "via", self.address("node1", family))
            client.add_route("default" if family == IPV4 else "::/0", "via", _first(CLIENT[family]))
        for tool in ("iptables", "ip6tables"):
            router.sysctl(f"net.bridge.bridge-nf-call-{tool}", 0)
        router.run("nft", "-f", "-", input=_NOTHING_FROM_ELSEWHERE)
        for number, (backend, addresses) in enumerate(BACKENDS.items(), 1):
            self._host(backend, addresses, f"node{number}")

    def _address(self, node: str) -> None:
        router, interface = self.machines["router"], node if self.apart else "lan"
        for family in (IPV4, IPV6):
            address, gateway = self.address(node, family), self._gateway(node, family)
            self.nodes[node].add_address("eth0", f"{address}/{_PREFIX[family]}")
            if self.apart or node == NODES[0]:
                router.add_address(interface, f"{gateway}/{_PREFIX[family]}")
            self.nodes[node].add_route("default" if family == IPV4 else "::/0", "via", gateway)

    def _gateway(self, node: str, family: str) -> str:
        """The router's address in the network of a node."""
        address = self.address(node, family)
        return f"{address.rpartition('.')[0]}.254" if family == IPV4 else f"{address.rpartition(':')[0]}:fe"

    def _host(self, backend: str, addresses: dict[str, str], node: str) -> None:
        machine, host = self.machines[backend], self.nodes[node]
        link(machine, "eth0", host, backend)
        host.add_bridge(
            "br0", backend, addresses=[f"{_first(one)}/{_PREFIX[family]}" for family, one in addresses.items()]
        )
        for family, address in addresses.items():
            machine.add_address("eth0", f"{address}/{_PREFIX[family]}")
            machine.add_route("default" if family == IPV4 else "::/0", "via", _first(address))

    # what a test does

    def inventory(self, overlay: str, family: str = IPV4, **variables: Any) -> None:
        """All nodes in the group, with this overlay. family: of the only address that is given of each; routes need both."""
        families = (IPV4, IPV6) if overlay == "routes" else (family,)
        self.controller.inventory(
            self.nodes,
            {
                "service_proxy_overlay": overlay,
                "service_proxy_local_cidrs": ["10.0.0.0/16", "fd00:1::/64", "fd00:2::/64"],
                "service_proxy_services": services(),
                **variables,
            },
        )
        path = self.controller.directory / "hosts.yml"
        found = yaml.safe_load(path.read_text())
        for node, host in found["service_proxy"]["hosts"].items():
            host["service_proxy_overlay_address"] = [self.address(node, one) for one in families]
            host["service_proxy_backend_cidrs"] = CIDRS[node]
        path.write_text(yaml.safe_dump(found))

    def held(self, node: str) -> list[str]:
        """What a node has of the overlay, as the tools tell it."""
        return sorted(self.nodes[node].run("sh", "-c", OVERLAY).stdout.splitlines())

    def ask(self, machine: str, address: str, protocol: str = "tcp", count: int = 1) -> Tally:
        """Connections from a machine, or from a node itself."""
        return connect({**self.nodes, **self.machines}[machine], address, PORT, protocol, count, 5.0)

    def transfer(self, machine: str, address: str, backend: str, listen: str, size: int = 1 << 20) -> int:
        """Send so many bytes to a service on another port of a backend, which sends as many back; how many have come back."""
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        server = self.machines[backend].socket(family)
        client = {**self.nodes, **self.machines}[machine].socket(family)
        with server, client, ThreadPoolExecutor(1) as threads:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((listen, PORT + 1))
            server.listen()
            client.settimeout(20)
            server.settimeout(20)
            answering = threads.submit(_give_back, server, size)
            client.connect((address, PORT + 1))
            client.sendall(b"x" * size)
            received = _receive(client, size)
            answering.result()
        return received

    def up(self, node: str) -> None:
        """Set the interface up that a test has set down, and give back what it lost."""
        self.nodes[node].run("ip", "link", "set", "eth0", "up")
        address = self.address(node, IPV6)
        self.nodes[node].add_address("eth0", f"{address}/{_PREFIX[IPV6]}")
        for family in (IPV4, IPV6):
            self.nodes[node].add_route("default" if family == IPV4 else "::/0", "via", self._gateway(node, family))

    def routes_of_others(self, node: str) -> str:
        """The routes of table main but ours, and but those to link-local addresses, which come some time after their link."""
        texts = [self.nodes[node].ip(*words, "route", "show") for words in ((), ("-6",))]
        lines = [line for text in texts for line in text.splitlines()]
        return "\n".join(line for line in lines if "proto 76" not in line and not line.startswith("fe80:"))


_NOTHING_FROM_ELSEWHERE = """
table inet fence {
    set networks4 { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 192.0.3.0/24, 192.0.4.0/24, 203.0.113.0/24, 10.96.0.0/16 } }
    set networks6 { type ipv6_addr; flags interval; elements = { 2001:db8::/32, fd96::/64 } }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr != @networks4 counter drop
        ip6 saddr != @networks6 counter drop
    }
}
"""


def _first(address: str) -> str:
    """The first address of the network of a machine, which its way out has."""
    return f"{address.rpartition('.')[0]}.1" if "." in address else f"{address.rpartition('::')[0]}::1"


def services() -> list[dict[str, Any]]:
    """To each backend and to both, for TCP, for UDP, and for TCP on the next port, where transfers go."""
    found = []
    for name, *vips in zip(("b1", "b2", "all"), *VIPS.values()):
        names = tuple(BACKENDS) if name == "all" else (name,)
        backends = [{"address": one, "node": f"node{at[1:]}"} for at in names for one in BACKENDS[at].values()]
        for kind, protocol, port in (("tcp", "tcp", PORT), ("udp", "udp", PORT), ("large", "tcp", PORT + 1)):
            found.append(
                {"name": f"{name}-{kind}", "vip": vips, "port": port, "protocol": protocol, "backends": backends}
            )
    return found


def _give_back(server: socket.socket, size: int) -> None:
    connection, _client = server.accept()
    with connection:
        connection.settimeout(20)
        assert _receive(connection, size) == size
        connection.sendall(b"y" * size)


def _receive(connection: socket.socket, size: int) -> int:
    received = 0
    while received < size:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        received += len(piece)
    return received
