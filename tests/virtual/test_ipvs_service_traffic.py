# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What virtual services of ipvs_service do to connections.

    client 192.0.2.100, 198.51.100.100 ── eth0 192.0.2.1 node br0 10.0.0.254 ── one 10.0.0.1, two 10.0.0.2

The same in IPv6. The node has the virtual addresses, the client and the backends route by it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from ipvs_host import IpvsHost

from lab.namespaces import Namespace, link
from lab.traffic import LongLivedConnection, Servers, connect

VIP = {"ipv4": "203.0.113.1", "ipv6": "2001:db8:113::1"}
BACKENDS = {"one": {"ipv4": "10.0.0.1", "ipv6": "fd00::1"}, "two": {"ipv4": "10.0.0.2", "ipv6": "fd00::2"}}
WEB: dict[str, Any] = {"address": VIP["ipv4"], "port": 80}
BOTH = [{"address": found["ipv4"], "port": 8080} for found in BACKENDS.values()]


class World:
    """The network above; a context manager."""

    def __init__(self) -> None:
        self.host = IpvsHost()
        self.node = self.host.namespace
        self.client = Namespace(self.node.name + "-client")
        self.backends = {name: Namespace(f"{self.node.name}-{name}") for name in BACKENDS}
        self._stack = ExitStack()

    def __enter__(self) -> World:
        with self._stack as stack:
            stack.enter_context(self.host)
            for one in (self.client, *self.backends.values()):
                stack.enter_context(one)
            self._wire()
            servers = stack.enter_context(Servers())
            for name, backend in self.backends.items():
                for address in (*BACKENDS[name].values(), VIP["ipv4"]):
                    for port in (80, 443, 8080):
                        servers.serve(backend, name, address, port, keep_open=port == 8080)
                servers.serve(backend, name, VIP["ipv4"], 53, "udp")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _wire(self) -> None:
        node, client = self.node, self.client
        link(client, "eth0", node, "eth0")
        client.add_address(
            "eth0", "192.0.2.100/24", "192.0.2.101/24", "198.51.100.100/24", "198.51.100.101/24", "2001:db8::100/64"
        )
        node.add_address("eth0", "192.0.2.1/24", "198.51.100.1/24", "2001:db8::1/64")
        node.add_address("lo", f"{VIP['ipv4']}/32", f"{VIP['ipv6']}/128")
        client.add_route("203.0.113.0/24", "via", "192.0.2.1")
        client.add_route("2001:db8:113::/64", "via", "2001:db8::1")
        for name, backend in self.backends.items():
            link(backend, "eth0", node, name)
            backend.add_address("eth0", BACKENDS[name]["ipv4"] + "/24", BACKENDS[name]["ipv6"] + "/64")
        node.add_bridge("br0", *self.backends, addresses=["10.0.0.254/24", "fd00::254/64"])
        for backend in self.backends.values():
            backend.add_route("default", "via", "10.0.0.254")
            backend.add_route("::/0", "via", "fd00::254")
            backend.sysctl("net/ipv4/conf/all/arp_ignore", 1)
            backend.add_address("lo", f"{VIP['ipv4']}/32")
        for name, value in (("ip_forward", 1), ("conf/all/accept_local", 1), ("conf/all/rp_filter", 0)):
            node.sysctl("net/ipv4/" + name, value)
        node.sysctl("net/ipv6/conf/all/forwarding", 1)

    def open(self, stack: ExitStack, **how: Any) -> LongLivedConnection:
        """A connection of the client that stays open as long as the stack."""
        return stack.enter_context(LongLivedConnection(self.client, VIP["ipv4"], 80, timeout=10.0, **how))


@pytest.fixture
def world() -> Iterator[World]:
    """New for every test: to a destination that comes back IPVS counts the connections that it had."""
    with World() as made:
        yield made


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_round_robin_is_exact_over_1000_connections(world: World, family: str) -> None:
    destinations = [{"address": found[family], "port": 8080} for found in BACKENDS.values()]
    world.host.apply(address=VIP[family], port=80, scheduler="rr", destinations=destinations)
    tally = connect(world.client, VIP[family], 80, count=1000, timeout=20.0)
    assert tally.backends == {"one": 500, "two": 500}, tally


def test_clients_of_one_network_stay_together(world: World) -> None:
    world.host.apply(**WEB, scheduler="rr", persistence_timeout=60, netmask="255.255.255.0", destinations=BOTH)
    seen: dict[str, Counter[str]] = {}
    for network in ("192.0.2", "198.51.100"):
        asked = [connect(world.client, VIP["ipv4"], 80, count=10, source=f"{network}.{last}") for last in (100, 101)]
        seen[network] = sum((tally.backends for tally in asked), Counter())
    assert sorted(map(dict, seen.values()), key=str) == [{"one": 20}, {"two": 20}], seen


def test_each_client_is_on_its_own_without_a_netmask(world: World) -> None:
    world.host.apply(**WEB, scheduler="rr", persistence_timeout=60, destinations=BOTH)
    asked = [connect(world.client, VIP["ipv4"], 80, count=10, source=f"192.0.2.{last}").backends for last in (100, 101)]
    assert sorted(map(dict, asked), key=str) == [{"one": 10}, {"two": 10}]


@pytest.mark.parametrize(("one_packet", "backends"), [(True, 2), (False, 1)])
def test_one_packet_schedules_each_datagram_of_a_flow(world: World, one_packet: bool, backends: int) -> None:
    """The backends have the address themselves (direct): of packets that are scheduled one by one no answer is translated."""
    destinations = [{"address": found["ipv4"], "forward_method": "direct"} for found in BACKENDS.values()]
    world.host.apply(
        address=VIP["ipv4"], port=53, protocol="udp", scheduler="rr", one_packet=one_packet, destinations=destinations
    )
    with LongLivedConnection(world.client, VIP["ipv4"], 53, "udp", timeout=10.0) as flow:
        seen = Counter(flow.ask().backend for _datagram in range(10))
    assert len(seen) == backends, seen
    assert set(seen.values()) == {10 // backends}


def test_a_destination_at_its_upper_threshold_gets_no_more(world: World) -> None:
    world.host.apply(**WEB, scheduler="rr", destinations=[{**BOTH[0], "upper_threshold": 2}, BOTH[1]])
    with ExitStack() as stack:
        seen = Counter(world.open(stack).first.backend for _connection in range(6))
    assert seen == {"one": 2, "two": 4}


def test_marked_packets_of_several_ports_are_one_service(world: World) -> None:
    mark = [
        "-t",
        "mangle",
        "PREROUTING",
        "-d",
        VIP["ipv4"],
        "-p",
        "tcp",
        "-m",
        "multiport",
        "--dports",
        "80,443",
        "-j",
        "MARK",
        "--set-mark",
        "7",
    ]
    world.node.run("iptables", mark[0], mark[1], "-A", *mark[2:])
    try:
        world.host.apply(
            fwmark=7, scheduler="rr", persistence_timeout=60, destinations=[{"address": one["address"]} for one in BOTH]
        )
        seen = [
            connect(world.client, VIP["ipv4"], port, source=f"192.0.2.{last}", timeout=10.0).backends
            for last in (100, 101)
            for port in (80, 443)
        ]
    finally:
        world.node.run("iptables", mark[0], mark[1], "-D", *mark[2:])
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_a_destination_that_goes_finishes_its_connections(world: World) -> None:
    """It takes no new ones meanwhile, and is gone as soon as the last has ended, long before the time is over."""
    host = world.host
    host.apply(**WEB, scheduler="rr", destinations=BOTH)
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        opened = [world.open(stack) for _connection in range(2)]
        (leaving,) = [one for one in opened if one.first.backend == "one"]
        draining = threads.submit(host.apply, **WEB, destinations=[BOTH[1]], exclusive=True, drain_timeout=120)
        await_line(host, "-r 10.0.0.1:8080 -m -w 0")
        assert connect(world.client, VIP["ipv4"], 80, count=20, timeout=10.0).backends == {"two": 20}
        assert leaving.ask().backend == "one"
        assert not draining.done()
        leaving.close()
        result = draining.result(timeout=60)
        assert "10.0.0.1:8080 -m -w 1" in result["diff"]["before"]
        assert result["diff"]["after"] == ""
        assert len(host.saved()) == 2
        assert [one.ask().backend for one in opened if one is not leaving] == ["two"]


def await_line(host: IpvsHost, end: str) -> None:
    """Until ipvsadm shows a line with this end."""
    give_up = time.monotonic() + 60
    while not any(line.endswith(end) for line in host.saved()):
        assert time.monotonic() < give_up, host.saved()
        time.sleep(0.2)


def test_a_connection_that_does_not_end_is_given_the_time_and_no_more(world: World) -> None:
    host = world.host
    host.apply(**WEB, destinations=[BOTH[0]])
    with ExitStack() as stack:
        world.open(stack)
        began = time.monotonic()
        host.apply(**WEB, state="absent", drain_timeout=3)
        assert time.monotonic() - began >= 3
        assert host.saved() == []


def test_without_connections_nothing_is_waited_for(world: World) -> None:
    host = world.host
    host.apply(**WEB, destinations=BOTH)
    began = time.monotonic()
    host.apply(**WEB, state="absent", drain_timeout=600)
    assert time.monotonic() - began < 60


def test_a_run_that_was_killed_while_it_waited_is_healed_by_the_next(world: World) -> None:
    """What it left with a weight of 0 gets its time again."""
    host = world.host
    host.apply(**WEB, destinations=[{**BOTH[0], "weight": 0}, BOTH[1]])
    host.apply(**WEB, destinations=[{**BOTH[0], "weight": 1}, {**BOTH[1], "weight": 0}])
    with ExitStack() as stack:
        assert world.open(stack).first.backend == "one"
        host.apply(**WEB, destinations=[{**BOTH[0], "weight": 0}, {**BOTH[1], "weight": 1}])
        began = time.monotonic()
        host.apply(**WEB, destinations=[BOTH[1]], exclusive=True, drain_timeout=3)
        assert time.monotonic() - began >= 3
    assert [line.split()[4] for line in host.saved()[1:]] == ["10.0.0.2:8080"]
