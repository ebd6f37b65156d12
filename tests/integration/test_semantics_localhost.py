# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Node ports on localhost open nothing else of it to those who route it to the node (CVE-2020-8558)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, vip

from lab.sctp import IPPROTO_SCTP, init_packet, ports_of
from lab.traffic import Servers

DAEMON = 2379
SETTINGS = {"localhost_node_ports": True}
GATEWAYS = {"client": "node1", "b11": "bridge1"}
"""A neighbour on the LAN, and a backend behind a bridge of the node."""
PATIENCE = 1.5


@pytest.fixture(params=list(GATEWAYS))
def neighbour(request: pytest.FixtureRequest, network: Network) -> Iterator[str]:
    """A host that routes 127.0.0.1 to the node, whose daemon listens there alone."""
    name: str = request.param
    host, node = network.hosts[name], network.hosts["node1"]
    gateway = ADDRESSES[GATEWAYS[name]][IPV4]
    node.sysctl("net/ipv4/conf/all/route_localnet", 1)
    host.sysctl("net/ipv4/conf/all/route_localnet", 1)
    host.run("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    host.run("ip", "route", "add", "127.0.0.1/32", "via", gateway, "src", ADDRESSES[name][IPV4])
    with Servers() as servers:
        for protocol in ("tcp", "udp"):
            servers.serve(node, "daemon", "127.0.0.1", DAEMON, protocol)
        try:
            yield name
        finally:
            host.run("ip", "route", "delete", "127.0.0.1/32")
            host.run("ip", "address", "add", "127.0.0.1/8", "dev", "lo")
            host.sysctl("net/ipv4/conf/all/route_localnet", 0)
            node.sysctl("net/ipv4/conf/all/route_localnet", 0)


def _apply(network: Network, **node: bool) -> None:
    web = {"name": "web", "vip": vip(1, IPV4), "port": 80, "node_port": 30080, "backends": backends("b12", "b21")}
    network.applied([web], node=node)


@pytest.mark.iptables_only
@pytest.mark.semantics(30)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_daemon_on_localhost_stays_out_of_reach(network: Network, neighbour: str, protocol: str) -> None:
    _apply(network)
    assert network.ask(neighbour, "127.0.0.1", DAEMON, protocol).answered == 1, "the route does not lead there"
    _apply(network, localhost_node_ports=True)
    assert network.ask(neighbour, "127.0.0.1", DAEMON, protocol, count=3, timeout=PATIENCE).answered == 0
    assert network.ask("node1", "127.0.0.1", DAEMON, protocol, count=3).answered == 3
    assert set(network.ask("node1", "127.0.0.1", 30080, count=10).backends) <= {"b12", "b21"}


@pytest.mark.iptables_only
@pytest.mark.semantics(30)
def test_an_association_with_localhost_is_kept_out(network: Network, neighbour: str) -> None:
    def arrives(port: int) -> bool:
        node, host = network.hosts["node1"], network.hosts[neighbour]
        with (
            node.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP) as there,
            host.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP) as here,
        ):
            there.settimeout(PATIENCE)
            here.sendto(init_packet(port, DAEMON), ("127.0.0.1", 0))
            try:
                return ports_of(there.recvfrom(2048)[0]) == (port, DAEMON)
            except TimeoutError:
                return False

    _apply(network)
    assert arrives(41001)
    _apply(network, localhost_node_ports=True)
    assert not arrives(41002)


@pytest.mark.iptables_only
@pytest.mark.semantics(30)
def test_what_others_accept_on_every_address_is_not_accepted_on_localhost(network: Network, neighbour: str) -> None:
    node = network.hosts["node1"]
    _apply(network, localhost_node_ports=True)
    accept = ("INPUT", "-p", "tcp", "--dport", str(DAEMON), "-j", "ACCEPT")
    node.run(network.iptables, "-I", *accept)
    try:
        _apply(network, localhost_node_ports=True)
        assert network.ask(neighbour, "127.0.0.1", DAEMON, timeout=PATIENCE).answered == 0
    finally:
        node.run(network.iptables, "-D", *accept)


@pytest.mark.iptables_only
@pytest.mark.semantics(30)
def test_what_somebody_else_translates_to_localhost_goes_on(network: Network, neighbour: str) -> None:
    node, own = network.hosts["node1"], ADDRESSES["node1"][IPV4]
    translate = ("PREROUTING", "-d", own, "-p", "tcp", "--dport", "9999", "-j", "DNAT", "--to", f"127.0.0.1:{DAEMON}")
    node.run(network.iptables, "-t", "nat", "-A", *translate)
    try:
        _apply(network, localhost_node_ports=True)
        assert network.ask(neighbour, own, 9999, count=3).answered == 3
    finally:
        node.run(network.iptables, "-t", "nat", "-D", *translate)


@pytest.mark.iptables_only
@pytest.mark.semantics(30)
def test_the_guard_stands_without_services_of_ipv4(network: Network, neighbour: str) -> None:
    """The setting opens localhost whatever services there are."""
    settings = {"node": {"localhost_node_ports": True}}
    six = {"name": "six", "vip": vip(1, IPV6), "port": 80, "backends": backends("b12", family=IPV6)}
    for services in ([six], []):
        network.applied(services, exclusive=True, **settings)
        assert network.ask(neighbour, "127.0.0.1", DAEMON, timeout=PATIENCE).answered == 0
        assert not network.applied(services, exclusive=True, **settings)["changed"]
    network.applied([], state="absent", exclusive=True, **settings)
    assert network.ask(neighbour, "127.0.0.1", DAEMON).answered == 1
