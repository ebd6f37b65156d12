# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which destination IPVS chooses: schedulers, weights, persistence."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, answered_from_one_port, backends, external_ip, vip

from lab.traffic import LongLivedConnection


def _web(*names: str, family: str = IPV4, **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family), **options}


def _one(counts: Counter[str]) -> str:
    (backend,) = counts
    return backend


@pytest.mark.semantics(5)
def test_round_robin_is_exact_over_1000_connections(network: Network, family: str) -> None:
    network.applied([_web("b11", "b21", family=family, scheduler="rr")])
    tally = network.ask("client", vip(1, family), 80, count=1000)
    assert tally.backends == {"b11": 500, "b21": 500}, tally


@pytest.mark.semantics(5)
def test_weights_hold_within_1_percent_over_10000_connections(network: Network) -> None:
    weighted = [{**one, "weight": weight} for one, weight in zip(backends("b11", "b12", "b21"), (5, 3, 2))]
    network.applied([_web(backends=weighted)])
    tally = network.ask("client", vip(1, IPV4), 80, count=10000)
    assert tally.answered == 10000, tally
    for name, share in (("b11", 0.5), ("b12", 0.3), ("b21", 0.2)):
        assert abs(tally.backends[name] / 10000 - share) < 0.01, tally.backends


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_a_hash_of_the_source_leads_each_client_to_one_backend(network: Network, family: str, scheduler: str) -> None:
    names = ("b11", "b12", "b21", "b22")
    network.applied([_web(*names, family=family, scheduler=scheduler)])
    hosts = ("client", "node2", "b11", "b12")
    chosen = {host: _one(network.ask(host, vip(1, family), 80, count=20).backends) for host in hosts}
    external = external_ip(1, family)
    network.applied([_web(*names, family=family, scheduler=scheduler, external_ips=[external])])
    assert {host: _one(network.ask(host, vip(1, family), 80, count=5).backends) for host in hosts} == chosen


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_hashed_clients_of_a_backend_that_drains_go_elsewhere(network: Network, scheduler: str) -> None:
    names = ("b11", "b12", "b21", "b22")
    network.applied([_web(*names, scheduler=scheduler)])
    drained = _one(network.ask("client", vip(1, IPV4), 80, count=5).backends)
    network.applied(
        [_web(scheduler=scheduler, backends=backends(drained, weight=0) + backends(*set(names) - {drained}))]
    )
    tally = network.ask("client", vip(1, IPV4), 80, count=20)
    assert tally.answered == 20, tally
    assert _one(tally.backends) != drained


def test_two_services_have_schedulers_of_their_own(network: Network) -> None:
    other = {"name": "other", "vip": vip(2, IPV4), "port": 80, "backends": backends("b11", "b12"), "scheduler": "sh"}
    network.applied([_web("b11", "b12", scheduler="rr"), other])
    assert network.ask("client", vip(1, IPV4), 80, count=100).backends == {"b11": 50, "b12": 50}
    assert len(network.ask("client", vip(2, IPV4), 80, count=100).backends) == 1


@pytest.mark.semantics(10)
def test_persistence_is_of_each_address_of_a_service_and_renewed_by_use(network: Network, family: str) -> None:
    """The other dataplanes remember a client for all addresses of a service together."""
    external = external_ip(1, family)
    sticky = {"session_affinity": "client_ip", "session_affinity_timeout": 300, "external_ips": [external]}
    network.applied([_web("b11", "b12", "b21", "b22", family=family, node_port=30080, **sticky)])
    for address, port in ((vip(1, family), 80), (external, 80), (ADDRESSES["node1"][family], 30080)):
        assert len(network.ask("client", address, port, count=30).backends) == 1


@pytest.mark.semantics(10)
def test_affinity_is_separate_for_each_service(network: Network, family: str) -> None:
    """Another client takes the first turn of one of two services, so that the same client gets another of its backends."""
    sticky = {"session_affinity": "client_ip", "scheduler": "rr"}
    web = _web("b11", "b12", family=family, **sticky)
    network.applied([])
    network.applied([web, {**web, "name": "other", "vip": vip(2, family)}])
    network.ask("node2", vip(1, family), 80)
    chosen = [_one(network.ask("client", vip(number, family), 80, count=5).backends) for number in (1, 2)]
    assert chosen[0] != chosen[1]


@pytest.mark.semantics(10)
@pytest.mark.semantics(5)
def test_a_remembered_client_leaves_a_backend_that_takes_nothing_new(network: Network) -> None:
    names = {"b11", "b12"}
    network.applied([_web(*names, session_affinity="client_ip")])
    first = _one(network.ask("client", vip(1, IPV4), 80, count=5).backends)
    drained = backends(first, weight=0) + backends(*names - {first})
    network.applied([_web(backends=drained, session_affinity="client_ip")])
    assert network.ask("client", vip(1, IPV4), 80, count=5).backends == {_one(Counter(names - {first})): 5}


def test_adding_a_backend_is_one_destination_and_one_entry(network: Network) -> None:
    network.applied([_web("b11", scheduler="rr")])
    rules = network.rules()
    with LongLivedConnection(network.hosts["client"], vip(1, IPV4), 80) as connection:
        diff = network.applied([_web("b11", "b12", scheduler="rr")])["diff"]
        assert connection.first.backend == "b11"
    assert diff["before"] == ""
    assert diff["after"].splitlines() == [
        "# ipset",
        "add L4-LOOP-BACK 10.0.1.12,tcp:8080,10.0.1.12",
        "# ipvsadm",
        "-a -t 10.96.0.1:80 -r 10.0.1.12:8080 -m -w 1",
    ]
    assert network.rules() == rules


def test_the_rules_do_not_grow_with_services_and_backends(network: Network) -> None:
    network.applied([_web("b11")])
    rules = network.rules()
    others = [{**_web("b11", "b12", "b21"), "name": f"s{n}", "vip": vip(10 + n, IPV4)} for n in range(200)]
    network.applied(others)
    assert network.rules() == rules


@pytest.mark.semantics(15)
def test_of_two_connections_from_one_port_to_one_backend_the_later_is_answered(network: Network, family: str) -> None:
    """IPVS tells connections by the client's address and port and the backend, masqueraded ones too."""
    assert answered_from_one_port(network, "b12", family) == [False, True]
    assert answered_from_one_port(network, "client", family) == [False, True]
