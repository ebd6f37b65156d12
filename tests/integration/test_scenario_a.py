# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scenario A: a bridge with local backends; FORWARD policy DROP.

Once promiscuous, once with hairpin on its ports, once found by the roles because it is that of a local network, and once with nftables
on a node that has neither iptables nor ipset.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from repetition import repetition
from worlds import Converged, World

from lab.shares import share_test
from lab.traffic import connect
from playbooks import Controller

VIP, PORT = "10.100.100.100", 8080
BACKENDS = {"b1": "10.0.0.11", "b2": "10.0.0.21", "b3": "10.0.0.31"}
NODE_INSIDE, NODE_OUTSIDE, CLIENT = "10.0.0.1", "192.168.50.1", "192.168.50.2"
CONNECTIONS = 10_000
P_VALUE = 1e-6


class ScenarioA(World):
    """Behind the bridge there is a third machine, which is no backend at first."""

    def __init__(self, mode: str) -> None:
        super().__init__(has_iptables=mode != "nftables")
        self.mode = mode if self._has_iptables else "promiscuous"

    def build(self) -> None:
        self.backends = self.bridge("br0", NODE_INSIDE, BACKENDS)
        self.client = self.outside(CLIENT, NODE_OUTSIDE, "10.100.100.0/24")
        for name, address in BACKENDS.items():
            self.servers.serve(self.backends[name], name, address, PORT)
            self.servers.serve(self.backends[name], name, address, PORT, "udp")
        self.servers.serve(self.client, "elsewhere", CLIENT, 9000)
        self.variables: dict[str, Any] = {
            "service_proxy_local_cidrs": ["10.0.0.0/24"],
            "service_proxy_services": [
                {"name": "http", "vip": VIP, "port": PORT, "backends": backends(b1=1, b2=1)},
                {"name": "datagrams", "vip": VIP, "port": PORT, "protocol": "udp", "backends": backends(b2=1)},
            ],
        }
        if not self._has_iptables:
            self.variables["service_proxy_dataplane"] = "nftables"
        if self.mode != "found":
            self.variables["service_proxy_bridges"] = [{"name": "br0", "mode": self.mode}]


def backends(**weights: int) -> list[dict[str, Any]]:
    return [{"address": BACKENDS[name], "weight": weight, "node": "node1"} for name, weight in weights.items()]


@pytest.fixture(scope="module", params=["promiscuous", repetition("hairpin"), "found", "nftables"])
def converged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    with ScenarioA(request.param) as world:
        yield Converged(world, Controller(tmp_path_factory.mktemp("controller")))


@pytest.fixture
def world(converged: Converged) -> ScenarioA:
    assert isinstance(converged.world, ScenarioA)
    return converged.world


def test_the_run_is_predicted_and_once_is_enough(converged: Converged) -> None:
    converged.assert_as_promised()


def test_the_bridge_is_in_its_mode(world: ScenarioA) -> None:
    promiscuous = "PROMISC" in world.node.ip("link", "show", "br0")
    assert promiscuous == (world.mode == "promiscuous")


def test_the_node_reaches_both_backends(world: ScenarioA) -> None:
    tally = connect(world.node, VIP, PORT, count=200)
    assert tally.failed == 0
    assert set(tally.backends) == {"b1", "b2"}


def test_a_backend_reaches_the_other_as_itself_and_itself_as_the_node(world: ScenarioA) -> None:
    for name in ("b1", "b2"):
        tally = connect(world.backends[name], VIP, PORT, count=200)
        other = "b2" if name == "b1" else "b1"
        assert tally.failed == 0
        assert set(tally.answers) == {(other, BACKENDS[name]), (name, NODE_INSIDE)}


def test_a_client_outside_reaches_both_backends_as_the_node(world: ScenarioA) -> None:
    tally = connect(world.client, VIP, PORT, count=CONNECTIONS)
    assert tally.failed == 0
    assert tally.sources == {NODE_INSIDE}
    assert share_test(tally.backends, {"b1": 1, "b2": 1}) > P_VALUE


def test_a_datagram_through_the_bridge_arrives_once(world: ScenarioA) -> None:
    with world.backends["b1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        for number in range(10):
            client.sendto(str(number).encode(), (VIP, PORT))
        time.sleep(0.5)
        client.setblocking(False)
        answers = 0
        while True:
            try:
                client.recv(100)
            except BlockingIOError:
                break
            answers += 1
    assert answers == 10


def test_backends_reach_elsewhere_as_the_node(world: ScenarioA) -> None:
    assert connect(world.backends["b1"], CLIENT, 9000).answers == {("elsewhere", NODE_OUTSIDE): 1}


def test_traffic_inside_the_bridge_is_not_masqueraded(world: ScenarioA) -> None:
    assert connect(world.backends["b1"], BACKENDS["b2"], PORT).answers == {("b2", BACKENDS["b1"]): 1}


@pytest.mark.parametrize(
    "weights",
    [repetition({"b1": 1, "b2": 1, "b3": 1}), {"b1": 3, "b2": 1}],
    ids=["thirds", "three-to-one"],
)
def test_shares_follow_the_inventory(converged: Converged, world: ScenarioA, weights: dict[str, int]) -> None:
    world.variables["service_proxy_services"][0]["backends"] = backends(**weights)
    check = converged.site(check=True)
    assert check.changes
    assert check.changes == converged.site().changes
    tally = connect(world.client, VIP, PORT, count=CONNECTIONS)
    assert tally.failed == 0
    assert share_test(tally.backends, weights) > P_VALUE


def test_when_it_goes_the_node_is_as_it_was_found(converged: Converged) -> None:
    converged.assert_leaves_nothing()
