# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The instruments of all other tests: namespaces, servers and clients, against rules written by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from lab.namespaces import Namespace, link
from lab.shares import share_test
from lab.traffic import LongLivedConnection, Servers, connect

RULES = """*nat
-A PREROUTING -d 10.99.0.1/32 -p tcp --dport 80 -m statistic --mode random --probability 0.75 -j DNAT --to-destination 10.9.1.2:8080
-A PREROUTING -d 10.99.0.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.9.1.3:8080
-A PREROUTING -d 10.99.0.1/32 -p udp --dport 80 -j DNAT --to-destination 10.9.1.3:8080
-A POSTROUTING -j MASQUERADE
COMMIT
*filter
-A FORWARD -d 10.99.0.2/32 -j REJECT
-A FORWARD -d 10.99.0.3/32 -j DROP
-A FORWARD -d 10.99.0.4/32 -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""


class Wire(NamedTuple):
    """A client, a router with `RULES`, and a server."""

    client: Namespace
    router: Namespace
    server: Namespace


def prefix() -> str:
    return f"l4t{os.getpid()}{os.environ.get('PYTEST_XDIST_WORKER', '')}"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with ExitStack() as stack:
        made = Wire(*(stack.enter_context(Namespace(f"{prefix()}-{name}")) for name in Wire._fields))
        link(made.client, "eth0", made.router, "eth0")
        link(made.router, "eth1", made.server, "eth0")
        made.client.add_address("eth0", "10.9.0.2/24", "10.9.0.3/24", "fd09::2/64")
        made.router.add_address("eth0", "10.9.0.1/24", "fd09::1/64")
        made.router.add_address("eth1", "10.9.1.1/24", "fd09:1::1/64")
        made.server.add_address("eth0", "10.9.1.2/24", "10.9.1.3/24", "fd09:1::2/64")
        made.client.add_route("0.0.0.0/0", "via", "10.9.0.1")
        made.client.add_route("::/0", "via", "fd09::1")
        made.server.add_route("::/0", "via", "fd09:1::1")
        made.router.add_route("10.99.0.0/24", "via", "10.9.1.2")
        made.router.sysctl("net.ipv4.ip_forward", 1)
        made.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        made.router.run("iptables-restore", input=RULES)
        yield made


@pytest.fixture(scope="module")
def servers(wire: Wire) -> Iterator[Servers]:
    with Servers() as running:
        for name, address in (("two", "10.9.1.2"), ("three", "10.9.1.3"), ("six", "fd09:1::2")):
            running.serve(wire.server, name, address, 8080)
            running.serve(wire.server, name, address, 8080, "udp")
        running.serve(wire.server, "patient", "10.9.1.2", 9000, keep_open=True)
        yield running


@pytest.mark.usefixtures("servers")
class TestAnswers:
    def test_all_of_ten_thousand_connections_are_answered(self, wire: Wire) -> None:
        tally = connect(wire.client, "10.99.0.1", 80, count=10_000)
        assert tally.answered == 10_000
        assert not tally.failures
        assert share_test(tally.backends, {"two": 3, "three": 1}) > 1e-6
        assert tally.sources == {"10.9.1.1"}

    @pytest.mark.parametrize("port", [8080, 9000])
    def test_nobody_holds_a_port_afterwards(self, wire: Wire, port: int) -> None:
        connect(wire.client, "10.9.1.2", port, count=100)
        for side in (wire.client, wire.server):
            assert side.run("ss", "-Htan", "state", "time-wait", "state", "fin-wait-2").stdout == ""

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_both_protocols_in_ipv6(self, wire: Wire, protocol: str) -> None:
        assert connect(wire.client, "fd09:1::2", 8080, protocol, count=200).answers == {("six", "fd09::2"): 200}

    def test_udp_flows_are_counted_one_by_one(self, wire: Wire) -> None:
        assert connect(wire.client, "10.99.0.1", 80, "udp", count=500).answers == {("three", "10.9.1.1"): 500}

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_source_address_and_port_are_as_asked(self, wire: Wire, protocol: str) -> None:
        wire.router.run("iptables", "-t", "nat", "-I", "POSTROUTING", "-s", "10.9.0.3", "-j", "ACCEPT")
        wire.server.run("ip", "route", "replace", "10.9.0.0/24", "via", "10.9.1.1")
        tally = connect(wire.client, "10.9.1.2", 8080, protocol, count=3, source="10.9.0.3", source_port=4321)
        assert tally.answers == {("two", "10.9.0.3"): 3}
        with LongLivedConnection(wire.client, "10.9.1.2", 9000, source="10.9.0.3") as connection:
            assert connection.first.address == "10.9.0.3"

    def test_a_connection_stays_open(self, wire: Wire) -> None:
        with LongLivedConnection(wire.client, "10.9.1.2", 9000) as connection:
            assert {connection.ask(), connection.ask("and again")} == {connection.first}
        assert connect(wire.client, "10.9.1.2", 9000, count=50).backends == {"patient": 50}

    def test_a_udp_flow_is_one_flow(self, wire: Wire) -> None:
        with LongLivedConnection(wire.client, "10.99.0.1", 80, "udp") as flow:
            assert {flow.ask() for _attempt in range(5)} == {flow.first}


class TestFailures:
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    @pytest.mark.parametrize(
        ("address", "kind"), [("10.99.0.2", "refused"), ("10.99.0.3", "timeout"), ("10.99.0.4", "unreachable")]
    )
    def test_kinds_are_told_apart(self, wire: Wire, protocol: str, address: str, kind: str) -> None:
        assert connect(wire.client, address, 81, protocol, count=5).failures == {kind: 5}

    def test_a_closed_port_refuses_at_once(self, wire: Wire) -> None:
        assert connect(wire.client, "10.9.1.2", 1).failures == {"refused": 1}
        assert connect(wire.client, "10.9.1.2", 1, "udp").failures == {"refused": 1}

    @pytest.mark.parametrize("accepted", [True, False])
    def test_an_end_without_an_answer_is_a_reset(self, wire: Wire, accepted: bool) -> None:
        """An accepted connection that is closed, and one that is still in the backlog of a listener that closes."""
        with wire.server.socket() as listener:
            listener.bind(("10.9.1.2", 0))
            listener.listen()

            def close_accepted() -> None:
                listener.accept()[0].close()

            closing = threading.Thread(target=close_accepted) if accepted else threading.Timer(0.3, listener.close)
            closing.start()
            assert connect(wire.client, *listener.getsockname()).failures == {"reset": 1}
            closing.join()

    def test_a_server_that_stops_refuses(self, wire: Wire) -> None:
        with Servers() as servers:
            servers.serve(wire.server, "brief", "10.9.1.2", 9100)
            assert connect(wire.client, "10.9.1.2", 9100).backends == {"brief": 1}
            servers.stop("brief")
            assert connect(wire.client, "10.9.1.2", 9100).failures == {"refused": 1}

    def test_a_port_that_is_taken_is_an_error(self, wire: Wire) -> None:
        with Servers() as servers:
            servers.serve(wire.server, "first", "10.9.1.2", 9200)
            with pytest.raises(OSError, match="in use"):
                servers.serve(wire.server, "second", "10.9.1.2", 9200)


class TestNamespaces:
    def test_a_socket_stays_where_it_was_made(self, wire: Wire) -> None:
        with wire.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
            endpoint.bind(("10.9.1.2", 0))
        with wire.client.socket() as endpoint, pytest.raises(OSError, match="assign"):
            endpoint.bind(("10.9.1.2", 0))

    def test_sysctls_are_the_namespace_s(self, wire: Wire) -> None:
        for value in (0, 1):
            wire.client.sysctl("net.ipv4.ip_forward", value)
            assert wire.client.sysctl("net.ipv4.ip_forward") == str(value)
            assert wire.router.sysctl("net.ipv4.ip_forward") == "1"

    def test_delete_ends_what_runs_inside_and_can_be_repeated(self) -> None:
        namespace = Namespace(f"{prefix()}-brief").create()
        process = namespace.start("sleep", "1000")
        other = subprocess.Popen(["ip", "netns", "exec", namespace.name, "sleep", "1000"])
        namespace.delete()
        assert process.poll() is not None
        assert other.wait(5) != 0
        assert not namespace.exists()
        namespace.delete()
        with pytest.raises(FileNotFoundError):
            namespace.call(int)
