# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Semantics, line 23: a node goes from dataplane to dataplane while connections are made; none fails; none is cut but those of IPVS.

Between nftables and iptables, of either variant, or with `--dataplane=ipvs` in all six directions. `--switches`: how many times.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, external_ip, vip

from lab.traffic import LongLivedConnection, Servers, Tally

ROUNDS = {
    "iptables": ("nftables", "iptables"),
    "ipvs": ("nftables", "iptables", "ipvs", "iptables", "nftables", "ipvs"),
}
"""In which order a node goes through dataplanes, by that with which it begins and ends."""
STEADY_PORT = 9000

pytestmark = pytest.mark.switches_dataplane


def _services(port: int = 8080) -> list[dict[str, Any]]:
    both = backends("b11", "b12", family=IPV4, port=port) + backends("b11", "b12", family=IPV6, port=port)
    common = {"port": 80, "backends": both}
    return [
        {**common, "name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "node_port": 30080},
        {**common, "name": "sticky", "vip": [vip(2, IPV4)], "session_affinity": "client_ip"},
        {**common, "name": "outside", "external_ips": [external_ip(3, IPV4)], "external_traffic_policy": "local"},
    ]


class _Load:
    """New connections all the time, by every way in; a context manager. An emulated machine gets fewer, which leaves it time to switch."""

    def __init__(self, network: Network) -> None:
        self.tallies = list[tuple[tuple[str, str, int], Tally]]()
        self._network, self._done = network, threading.Event()
        self._count, self._pause = (2, 0.5) if network.dataplane == "ipvs" else (20, 0.02)
        ways = [("client", vip(1, IPV4), 80), ("client", vip(1, IPV6), 80), ("client", vip(2, IPV4), 80)]
        ways += [
            ("client", external_ip(3, IPV4), 80),
            ("client", ADDRESSES["node1"][IPV4], 30080),
            ("b11", vip(1, IPV4), 80),
        ]
        if network.dataplane != "ipvs":  # what the node has opened ends where IPVS is left: docs/semantics.md
            ways += [("node1", vip(1, IPV4), 80)]
        self._threads = [threading.Thread(target=self._run, args=way) for way in ways]

    def __enter__(self) -> _Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, host: str, address: str, port: int) -> None:
        while not self._done.is_set():
            self.tallies.append(((host, address, port), self._network.ask(host, address, port, count=self._count)))
            self._done.wait(self._pause)


@pytest.mark.semantics(23)
def test_switching_under_load_fails_no_connection(
    network: Network, request: pytest.FixtureRequest, record_property: Any
) -> None:
    switches = request.config.getoption("--switches")
    with ExitStack() as stack:
        servers = stack.enter_context(Servers())
        for name in ("b11", "b12"):
            for address in ADDRESSES[name].values():
                servers.serve(network.hosts[name], name, address, STEADY_PORT, keep_open=True)
        services = _services(STEADY_PORT)
        network.applied(services)
        client = network.hosts["client"]
        held = [
            stack.enter_context(LongLivedConnection(client, vip(1, family), 80, timeout=10))
            for family in (IPV4, IPV6)
            for dummy in range(0 if network.dataplane == "ipvs" else 10)
        ]
        first = [connection.first.backend for connection in held]
        with _Load(network) as load:
            for dataplane in islice(cycle(ROUNDS[network.dataplane]), switches):
                switched = network.applied(services, dataplane=dataplane)
                assert switched["changed"]
                assert (switched["added"], switched["removed"]) == ([], [])
        assert [connection.ask().backend for connection in held] == first
    answered, failed = (sum(getattr(tally, what) for dummy, tally in load.tallies) for what in ("answered", "failed"))
    record_property("connections", answered)
    assert failed == 0, [(way, tally) for way, tally in load.tallies if tally.failed][:9]
    assert answered > switches * 10


@pytest.mark.semantics(23)
def test_a_switch_leaves_nothing_of_the_other_dataplane(network: Network) -> None:
    node = network.hosts["node1"]
    services = _services()
    network.applied(services)
    network.applied(services, dataplane="nftables")
    assert "L4-" not in network.rules()
    assert node.run("ipset", "list", "-n").stdout == ""
    assert "l4-ipvs0" not in node.run("ip", "link").stdout
    assert "l4-service-proxy" in node.run("nft", "list", "tables").stdout
    assert not network.applied(services, dataplane="nftables")["changed"]
    back = network.applied(services)
    assert back["updated"] == ["outside", "sticky", "web"]
    assert "l4-service-proxy" not in node.run("nft", "list", "tables").stdout
    network.applied([], state="absent")


@pytest.mark.semantics(23)
def test_only_some_services_cannot_switch(network: Network) -> None:
    services = _services()
    network.applied(services)
    refused = network.apply(services[:1], dataplane="nftables", exclusive=False)
    assert refused["failed"]
    assert "outside" in refused["msg"]
    assert not network.applied(services)["changed"]
    network.applied([], state="absent")
