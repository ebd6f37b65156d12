# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network in which the traffic semantics are proved: two nodes with two backends each, and a client outside.

    client 192.0.2.100 ──┐
                        lan ── node1 192.0.2.1 ── br0 10.0.1.1/24 ── b11 10.0.1.11, b12 10.0.1.12
                         └──── node2 192.0.2.2 ── br0 10.0.2.1/24 ── b21 10.0.2.11, b22 10.0.2.12

The same in IPv6. node1 proxies; the client and node2 route the service networks to it. Each backend serves tcp, udp (and sctp,
where the kernel has sockets for it) on 8080.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lab.namespaces import Namespace, link
from lab.servers import family_of
from lab.traffic import Servers, Tally, connect
from module_runner import legacy_path, run_module

if TYPE_CHECKING:
    from typing_extensions import Self

IPV4, IPV6 = "ipv4", "ipv6"
PORT = 8080
SERVICE_NETWORKS = {
    IPV4: ("10.96.0.0/16", "203.0.113.0/24", "198.51.100.0/24"),
    IPV6: ("fd96::/64", "2001:db8:113::/64", "2001:db8:51::/64"),
}
ADDRESSES: dict[str, dict[str, str]] = {
    "client": {IPV4: "192.0.2.100", IPV6: "2001:db8::100"},
    "node1": {IPV4: "192.0.2.1", IPV6: "2001:db8::1"},
    "node2": {IPV4: "192.0.2.2", IPV6: "2001:db8::2"},
    "bridge1": {IPV4: "10.0.1.1", IPV6: "fd00:1::1"},
    "bridge2": {IPV4: "10.0.2.1", IPV6: "fd00:2::1"},
    "b11": {IPV4: "10.0.1.11", IPV6: "fd00:1::11"},
    "b12": {IPV4: "10.0.1.12", IPV6: "fd00:1::12"},
    "b21": {IPV4: "10.0.2.11", IPV6: "fd00:2::11"},
    "b22": {IPV4: "10.0.2.12", IPV6: "fd00:2::12"},
}
LOCAL_CIDRS = ["10.0.0.0/16", "fd00:1::/64", "fd00:2::/64"]
HOSTED = {"node1": ("b11", "b12"), "node2": ("b21", "b22")}
_PREFIX = {IPV4: 24, IPV6: 64}


def vip(number: int, family: str) -> str:
    return {IPV4: "10.96.0.%d", IPV6: "fd96::%x"}[family] % number


def external_ip(number: int, family: str) -> str:
    return {IPV4: "203.0.113.%d", IPV6: "2001:db8:113::%x"}[family] % number


def balancer_ip(number: int, family: str) -> str:
    return {IPV4: "198.51.100.%d", IPV6: "2001:db8:51::%x"}[family] % number


class Network:
    """A context manager; ``hosts`` are the namespaces by their names above."""

    def __init__(
        self, prefix: str, legacy: bool = False, dataplane: str = "iptables", node: Mapping[str, Any] | None = None
    ) -> None:
        self.dataplane, self.node = dataplane, dict(node or {})
        self.path_prefix = legacy_path() if legacy else None
        self.iptables = "iptables-legacy" if legacy else "iptables-nft"
        self.hosts = {
            name: Namespace(f"{prefix}-{name}")
            for name in ("lan", "client", "node1", "node2", "b11", "b12", "b21", "b22")
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            for host in self.hosts.values():
                host.delete()
                stack.enter_context(host)
                for interfaces in ("all", "default"):
                    host.sysctl(f"net/ipv6/conf/{interfaces}/accept_dad", 0)
            self._wire()
            self._serve(stack.enter_context(Servers()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _wire(self) -> None:
        lan = self.hosts["lan"]
        for name in ("client", "node1", "node2"):
            link(self.hosts[name], "eth0", lan, name)
            self._address(name, "eth0", ADDRESSES[name])
        lan.add_bridge("lan", "client", "node1", "node2")
        for node, bridge in (("node1", "bridge1"), ("node2", "bridge2")):
            self._node(node, bridge)
        for family, networks in SERVICE_NETWORKS.items():
            for network in networks:
                self.hosts["client"].add_route(network, "via", ADDRESSES["node1"][family])
                self.hosts["node2"].add_route(network, "via", ADDRESSES["node1"][family])
            for node, other, bridge in (("node1", "node2", "bridge2"), ("node2", "node1", "bridge1")):
                network = f"{ADDRESSES[bridge][family]}/{_PREFIX[family]}"
                strict = network.replace(".1/", ".0/").replace("::1/", "::/")
                self.hosts[node].add_route(strict, "via", ADDRESSES[other][family])
                self.hosts["client"].add_route(strict, "via", ADDRESSES[other][family])

    def _node(self, node: str, bridge: str) -> None:
        host = self.hosts[node]
        for backend in HOSTED[node]:
            link(self.hosts[backend], "eth0", host, backend)
            self._address(backend, "eth0", ADDRESSES[backend])
        host.add_bridge("br0", *HOSTED[node], addresses=[f"{a}/{_PREFIX[f]}" for f, a in ADDRESSES[bridge].items()])
        for backend in HOSTED[node]:
            host.run("bridge", "link", "set", "dev", backend, "hairpin", "on")
        for name, value in (
            ("net.ipv4.ip_forward", 1),
            ("net.ipv6.conf.all.forwarding", 1),
            ("net.bridge.bridge-nf-call-iptables", 1),
            ("net.bridge.bridge-nf-call-ip6tables", 1),
        ):
            host.sysctl(name.replace(".", "/"), value)
        for family in (IPV4, IPV6):
            host.add_route("default" if family == IPV4 else "::/0", "via", ADDRESSES["client"][family])
            for backend in HOSTED[node]:
                self.hosts[backend].add_route("default" if family == IPV4 else "::/0", "via", ADDRESSES[bridge][family])

    def _address(self, name: str, interface: str, addresses: Mapping[str, str]) -> None:
        host = self.hosts[name]
        host.add_address(interface, *(f"{a}/{_PREFIX[f]}" for f, a in addresses.items()))

    def _serve(self, servers: Servers) -> None:
        self.servers = servers
        for backend in ("b11", "b12", "b21", "b22"):
            for address in ADDRESSES[backend].values():
                for protocol in ("tcp", "udp"):
                    servers.serve(self.hosts[backend], backend, address, PORT, protocol, keep_open=False)

    # what a test does

    def apply(
        self,
        services: Sequence[Mapping[str, Any]],
        node: Mapping[str, Any] | None = None,
        check: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """`vip_service` on node1, which has these services and no others; the result of the module."""
        arguments = {
            "services": list(services),
            "exclusive": True,
            "dataplane": self.dataplane,
            "node": {"name": "node1", "local_cidrs": LOCAL_CIDRS, **self.node, **(node or {})},
            **options,
        }
        return run_module(self.hosts["node1"], "vip_service", arguments, check=check, path_prefix=self.path_prefix)

    def applied(
        self, services: Sequence[Mapping[str, Any]], node: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        result = self.apply(services, node, **options)
        assert not result.get("failed"), result.get("msg")
        return result

    def ask(
        self,
        host: str,
        address: str,
        port: int,
        protocol: str = "tcp",
        count: int = 1,
        timeout: float = 5.0,
        **how: Any,
    ) -> Tally:
        """Connections from a host; the patience is for busy machines, a test of silence gives its own."""
        return connect(self.hosts[host], address, port, protocol, count, timeout, **how)

    def rules(self, host: str = "node1") -> str:
        """All rules of both families, without the policies' counters and comments of the tool."""
        if self.dataplane == "nftables":
            return _sorted_elements(self.hosts[host].run("nft", "list", "ruleset").stdout)
        tools = [self.iptables, self.iptables.replace("iptables", "ip6tables")]
        texts = [self.hosts[host].run(tool + "-save").stdout for tool in tools]
        lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
        return "\n".join(re.sub(r"^(:.*) \[\d+:\d+\]$", r"\1", line) for line in lines)

    def save(self, family: str) -> str:
        """The rules of node1 in one family, for `restore`."""
        node = self.hosts["node1"]
        if self.dataplane == "nftables":
            table = ("ip6" if family == IPV6 else "ip", "l4-service-proxy")
            return "delete table {} {}\n".format(*table) + node.run("nft", "list", "table", *table).stdout
        return node.run(self.tool(family) + "-save").stdout

    def restore(self, family: str, saved: str) -> None:
        """The rules of node1 as they were saved."""
        if self.dataplane == "nftables":
            self.hosts["node1"].run("nft", "-f", "-", input=saved)
        else:
            self.hosts["node1"].run(self.tool(family) + "-restore", input=saved)

    def tool(self, family: str) -> str:
        """The iptables of a family."""
        return self.iptables.replace("ip", "ip6", 1) if family == IPV6 else self.iptables


def _sorted_elements(ruleset: str) -> str:
    """The ruleset with each element in a line of its own, in order, and without those that packets have made."""

    def in_order(found: re.Match[str]) -> str:
        elements = sorted(" ".join(one.split()) for one in found[1].split(",") if " expires " not in one)
        return "\n".join(elements)

    return re.sub(r"elements = \{(.*?)\}", in_order, ruleset, flags=re.DOTALL)


def backends(*names: str, family: str = IPV4, port: int = PORT, **common: Any) -> list[dict[str, Any]]:
    """Backends as a user writes them, on the nodes that host them."""
    hosts = {backend: node for node, hosted in HOSTED.items() for backend in hosted}
    return [{"address": ADDRESSES[name][family], "port": port, "node": hosts[name], **common} for name in names]


def answered_from_one_port(network: Network, host: str, family: str) -> list[bool]:
    """Whether connections of a host through two services to one backend are answered while both are open, both from one port of its own."""
    backend = {"address": ADDRESSES["b11"][family], "port": PORT + 1, "node": "node1"}
    network.applied(
        [{"name": f"web-{one}", "vip": vip(one, family), "port": 80, "backends": [backend]} for one in (1, 2)]
    )
    endpoints: list[socket.socket] = []
    with Servers() as servers, ExitStack() as stack:
        servers.serve(network.hosts["b11"], "b11", ADDRESSES["b11"][family], PORT + 1, keep_open=True)
        for number in (1, 2):
            one = stack.enter_context(network.hosts[host].socket(family_of(vip(1, family)), socket.SOCK_STREAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.settimeout(5)
            one.bind(("", endpoints[0].getsockname()[1] if endpoints else 0))
            one.connect((vip(number, family), 80))
            assert one.recv(100)
            endpoints.append(one)
        return [_answers(one) for one in endpoints]


def _answers(endpoint: socket.socket) -> bool:
    try:
        endpoint.send(b"?\n")
        return bool(endpoint.recv(100))
    except OSError:
        return False
