# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 5 to 9: which backend a connection gets, and with what chance."""

from __future__ import annotations

from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, backends, external_ip, vip

from lab.shares import share_test
from lab.traffic import LongLivedConnection, Servers

CONNECTIONS = 10_000
IMPROBABLE = 1e-6
"""A right dataplane fails a test once in a million runs; wrong chances are far less probable among so many connections."""
READY: dict[str, Any] = {}
DRAINING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": True}


def _web(family: str, *backend: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": list(backend), **options}


def _one(name: str, family: str, **options: Any) -> dict[str, Any]:
    return {**backends(name, family=family)[0], **options}


@pytest.mark.semantics(5)
@pytest.mark.parametrize(
    "weights",
    [
        {"b11": 1, "b12": 1},
        {"b11": 1, "b12": 1, "b21": 1},
        {"b11": 3, "b12": 1},
        {"b11": 1, "b12": 2, "b21": 3, "b22": 4},
    ],
    ids=["two", "three", "3:1", "1:2:3:4"],
)
def test_chance_is_proportional_to_weight(network: Network, family: str, weights: dict[str, int]) -> None:
    network.applied([_web(family, *(_one(name, family, weight=weight) for name, weight in weights.items()))])
    tally = network.ask("client", vip(1, family), 80, count=CONNECTIONS)
    assert tally.answered == CONNECTIONS, tally
    assert share_test(tally.backends, weights) > IMPROBABLE, tally.backends


@pytest.mark.semantics(5)
def test_weight_0_takes_no_new_connections_and_established_ones_go_on(network: Network, family: str) -> None:
    at = ADDRESSES["b11"][family]
    with Servers() as servers:
        servers.serve(network.hosts["b11"], "steady", at, 9000, keep_open=True)
        first, second = _one("b11", family, port=9000), _one("b12", family, port=8080)
        network.applied([_web(family, first)])
        with LongLivedConnection(network.hosts["client"], vip(1, family), 80) as connection:
            network.applied([_web(family, {**first, "weight": 0}, second)])
            assert set(network.ask("client", vip(1, family), 80, count=200).backends) == {"b12"}
            assert connection.ask().backend == "steady"
    network.applied([_web(family, {**first, "weight": 0})])
    assert network.ask("client", vip(1, family), 80, count=5).failures == {"refused": 5}


@pytest.mark.semantics(6)
@pytest.mark.parametrize(
    ("states", "used"),
    [
        ({"b11": READY, "b12": DRAINING, "b21": UNREADY}, {"b11"}),
        ({"b11": DRAINING, "b12": UNREADY, "b21": DRAINING}, {"b11", "b21"}),
        ({"b11": UNREADY, "b12": {"ready": False, "terminating": True}}, set()),
    ],
    ids=["ready first", "draining when none is ready", "never the unready"],
)
def test_usable_backends_are_the_ready_or_else_the_draining(
    network: Network, family: str, states: dict[str, dict[str, Any]], used: set[str]
) -> None:
    network.applied([_web(family, *(_one(name, family, **state) for name, state in states.items()))])
    tally = network.ask("client", vip(1, family), 80, count=50)
    assert set(tally.backends) == used
    assert tally.failures == ({} if used else {"refused": 50})


@pytest.mark.semantics(6)
def test_insiders_use_a_ready_remote_backend_while_outsiders_use_a_draining_local_one(
    network: Network, family: str
) -> None:
    web = _web(
        family, _one("b11", family, **DRAINING), _one("b21", family), node_port=30080, external_traffic_policy="local"
    )
    network.applied([web])
    assert set(network.ask("b12", vip(1, family), 80, count=20).backends) == {"b21"}
    assert set(network.ask("client", ADDRESSES["node1"][family], 30080, count=20).backends) == {"b11"}


@pytest.mark.semantics(7)
def test_internal_local_keeps_the_vip_on_local_backends_and_nothing_else(network: Network, family: str) -> None:
    nowhere = {"address": ADDRESSES["b22"][family], "port": 8080}
    web = _web(family, _one("b11", family), _one("b21", family), nowhere, internal_traffic_policy="local")
    external = external_ip(1, family)
    network.applied([{**web, "node_port": 30080, "external_ips": [external]}])
    for source in ("node1", "b12", "client"):
        assert set(network.ask(source, vip(1, family), 80, count=30).backends) == {"b11"}
        for address, port in ((external, 80), (ADDRESSES["node1"][family], 30080)):
            assert set(network.ask(source, address, port, count=60).backends) == {"b11", "b21", "b22"}


@pytest.mark.semantics(8)
def test_external_local_reaches_local_backends_with_the_clients_address(network: Network, family: str) -> None:
    web = _web(family, *backends("b11", "b12", "b21", family=family), external_traffic_policy="local", node_port=30080)
    external = external_ip(1, family)
    network.applied([{**web, "external_ips": [external]}])
    for address, port in ((external, 80), (ADDRESSES["node1"][family], 30080)):
        tally = network.ask("client", address, port, count=60)
        assert set(tally.backends) == {"b11", "b12"}
        assert tally.sources == {ADDRESSES["client"][family]}
    tally = network.ask("client", vip(1, family), 80, count=60)
    assert set(tally.backends) == {"b11", "b12", "b21"}


@pytest.mark.iptables_only
@pytest.mark.semantics(8)
@pytest.mark.parametrize("hosted", ["some local", "none local"])
def test_external_local_leaves_all_backends_to_local_sources_and_the_node(
    network: Network, family: str, hosted: str
) -> None:
    names = ("b12", "b21") if hosted == "some local" else ("b21", "b22")
    web = _web(family, *backends(*names, family=family), external_traffic_policy="local", node_port=30080)
    external = external_ip(1, family)
    network.applied([{**web, "external_ips": [external]}])
    for address, port in ((external, 80), (ADDRESSES["node1"][family], 30080)):
        tally = network.ask("b11", address, port, count=60)
        assert set(tally.backends) == set(names)
        assert tally.sources == {ADDRESSES["b11"][family]}
        tally = network.ask("node1", address, port, count=60)
        assert set(tally.backends) == set(names)
        assert tally.sources <= {ADDRESSES["node1"][family], ADDRESSES["bridge1"][family]}


@pytest.mark.iptables_only
@pytest.mark.semantics(8)
def test_external_local_without_local_cidrs_exempts_only_the_node(network: Network, family: str) -> None:
    web = _web(family, *backends("b12", "b21", family=family), external_traffic_policy="local", node_port=30080)
    network.applied([web], node={"local_cidrs": []})
    assert set(network.ask("b11", ADDRESSES["node1"][family], 30080, count=40).backends) == {"b12"}
    assert set(network.ask("node1", ADDRESSES["node1"][family], 30080, count=40).backends) == {"b12", "b21"}


@pytest.mark.iptables_only
@pytest.mark.semantics(9)
@pytest.mark.parametrize("policy", ["internal_traffic_policy", "external_traffic_policy"])
def test_no_backend_rejects_and_no_local_one_drops(network: Network, policy: str) -> None:
    external = external_ip(1, IPV4)
    common = {"node_port": 30080, "external_ips": [external], policy: "local"}
    ways = {
        "internal_traffic_policy": [(vip(1, IPV4), 80)],
        "external_traffic_policy": [(external, 80), (ADDRESSES["node1"][IPV4], 30080)],
    }
    network.applied([_web(IPV4, **common)])
    for address, port in ways[policy]:
        assert network.ask("client", address, port, count=3).failures == {"refused": 3}
    network.applied([_web(IPV4, _one("b21", IPV4), **common)])
    for address, port in ways[policy]:
        tally = network.ask("client", address, port, count=3, timeout=2.5)
        assert tally.failures == {"timeout": 3}, (address, tally)
    if policy == "internal_traffic_policy":
        assert network.ask("node1", vip(1, IPV4), 80, count=3, timeout=2.5).answered == 0
