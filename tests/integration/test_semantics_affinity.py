# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, line 10: a client that comes back."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, external_ip, vip

from lab.traffic import Servers

ALL = ("b11", "b12", "b21", "b22")


def _sticky(family: str, *names: str, **options: Any) -> dict[str, Any]:
    common = {"name": "web", "vip": vip(1, family), "port": 80, "session_affinity": "client_ip"}
    return {**common, "backends": backends(*(names or ALL), family=family), **options}


def _one(backend_counts: dict[str, int]) -> str:
    (backend,) = backend_counts
    return backend


def _forget(network: Network) -> None:
    """Sets come with the first service: those of an earlier test are not remembered."""
    network.applied([], state="absent")


@pytest.mark.iptables_only
@pytest.mark.semantics(10)
def test_a_client_comes_back_to_its_backend_by_whichever_address(network: Network, family: str) -> None:
    _forget(network)
    external = external_ip(1, family)
    network.applied([_sticky(family, external_ips=[external], node_port=30080)])
    first = _one(network.ask("client", vip(1, family), 80).backends)
    for address, port in ((vip(1, family), 80), (external, 80), (ADDRESSES["node1"][family], 30080)):
        assert network.ask("client", address, port, count=50).backends == {first: 50}


@pytest.mark.iptables_only
@pytest.mark.semantics(10)
def test_affinity_is_separate_for_each_service(network: Network, family: str) -> None:
    _forget(network)
    others = [{**_sticky(family), "name": f"other{n}", "vip": vip(10 + n, family)} for n in range(20)]
    network.applied([_sticky(family), *others])
    chosen = {_one(network.ask("client", vip(10 + n, family), 80).backends) for n in range(20)}
    assert len(chosen) > 1


@pytest.mark.iptables_only
@pytest.mark.semantics(10)
def test_more_clients_than_the_recent_match_knows_are_remembered(network: Network) -> None:
    """500 clients, each an address of its own: its list would hold 100."""
    _forget(network)
    client = network.hosts["client"]
    addresses = [
        f"192.0.2.{100 + n % 100}" if n < 100 else f"192.0.{2 + n // 100}.{n % 100 + 1}" for n in range(1, 501)
    ]
    client.ip("route", "add", "local", "192.0.3.0/24", "dev", "lo")
    for third in range(3, 8):
        network.hosts["node1"].ip("route", "replace", f"192.0.{third}.0/24", "via", ADDRESSES["client"][IPV4])
        client.ip("route", "replace", "local", f"192.0.{third}.0/24", "dev", "lo")
    sources = [address for address in addresses if not address.startswith("192.0.2.")]
    network.applied([_sticky(IPV4)])
    first = {source: _one(network.ask("client", vip(1, IPV4), 80, source=source).backends) for source in sources}
    again = {source: _one(network.ask("client", vip(1, IPV4), 80, source=source).backends) for source in sources}
    assert len(sources) > 300
    assert again == first
    assert set(first.values()) == set(ALL)


@pytest.mark.iptables_only
@pytest.mark.semantics(10)
def test_each_new_connection_renews_the_timeout(network: Network, family: str) -> None:
    _forget(network)
    network.applied([_sticky(family, session_affinity_timeout=3)])
    first = _one(network.ask("client", vip(1, family), 80).backends)
    for dummy in range(5):
        time.sleep(1.2)
        assert network.ask("client", vip(1, family), 80).backends == {first: 1}
    seen = set()
    for dummy in range(4):
        time.sleep(4.2)
        seen |= set(network.ask("client", vip(1, family), 80).backends)
        if seen != {first}:
            break
    assert seen != {first}, "four times after the timeout the same of four backends: chance 1 in 256"


@pytest.mark.semantics(10)
def test_a_client_moves_when_its_backend_is_gone_and_others_stay(network: Network, family: str) -> None:
    _forget(network)
    network.applied([_sticky(family)])
    first = {host: _one(network.ask(host, vip(1, family), 80).backends) for host in ("client", "node1", "b12")}
    gone = first["client"]
    network.applied([_sticky(family, *(name for name in ALL if name != gone))])
    moved = _one(network.ask("client", vip(1, family), 80).backends)
    assert moved != gone
    assert network.ask("client", vip(1, family), 80, count=20).backends == {moved: 20}
    for host, backend in first.items():
        if backend != gone:
            assert network.ask(host, vip(1, family), 80, count=5).backends == {backend: 5}


@pytest.mark.needs_iptables
@pytest.mark.iptables_only
@pytest.mark.semantics(10)
@pytest.mark.semantics(18)
def test_sets_come_and_go_with_their_backends_and_a_second_run_changes_nothing(network: Network) -> None:
    _forget(network)
    node = network.hosts["node1"]
    both = [vip(1, IPV4), vip(1, IPV6)]
    web = _sticky(IPV4, vip=both)
    web["backends"] = backends("b11", "b12", family=IPV4) + backends("b11", family=IPV6)
    predicted = network.apply([web], check=True)
    assert node.run("ipset", "list", "-n").stdout == ""
    result = network.applied([web])
    assert result["diff"] == predicted["diff"]
    assert result["diff"]["after"].count("create L4-AFF-") == 3
    assert len(node.run("ipset", "list", "-n").stdout.split()) == 3
    again = network.applied([web])
    assert (again["changed"], again["diff"]) == (False, {"before": "", "after": ""})
    network.applied([{**web, "backends": web["backends"][:1]}])
    assert len(node.run("ipset", "list", "-n").stdout.split()) == 1
    network.applied([{**web, "session_affinity": "none"}])
    assert node.run("ipset", "list", "-n").stdout == ""


SOURCES = [f"192.0.8.{last}" for last in range(1, 41)]
"""Of clients that are many."""
PORTS = range(9101, 9107)


def _endpoints(family: str, count: int) -> list[dict[str, Any]]:
    """The first so many of 24, each of which answers by its own name."""
    found = [{**backend, "port": port} for port in PORTS for backend in backends(*ALL, family=family)]
    return found[:count]


@pytest.mark.iptables_only
@pytest.mark.semantics(10)
@pytest.mark.semantics(20)
def test_clients_are_remembered_while_a_service_grows_into_groups_and_shrinks(network: Network) -> None:
    """From a list of backends to a tree of groups and back: who has a backend keeps it as long as it stays."""
    _forget(network)
    client = network.hosts["client"]
    network.hosts["node1"].ip("route", "replace", "192.0.8.0/24", "via", ADDRESSES["client"][IPV4])
    client.ip("route", "replace", "local", "192.0.8.0/24", "dev", "lo")

    def ask() -> dict[str, str]:
        return {source: _one(network.ask("client", vip(1, IPV4), 80, source=source).backends) for source in SOURCES}

    with Servers() as servers:
        for port in PORTS:
            for name in ALL:
                servers.serve(network.hosts[name], f"{name}:{port}", ADDRESSES[name][IPV4], port, keep_open=False)
        network.applied([_sticky(IPV4, backends=_endpoints(IPV4, 14))])
        held = ask()
        assert len(set(held.values())) > 8
        for count in (24, 18, 10, 24):
            service = _sticky(IPV4, backends=_endpoints(IPV4, count))
            network.applied([service])
            there = {f"{name}:{port}" for port in PORTS for name in ALL if _is_among(service, name, port)}
            moved = {source: backend for source, backend in held.items() if backend not in there}
            again = ask()
            assert {source: again[source] for source in held if source not in moved} == {
                source: backend for source, backend in held.items() if source not in moved
            }
            assert set(again.values()) <= there
            assert ask() == again
            assert network.applied([service])["changed"] is False
            held = again


def _is_among(service: dict[str, Any], name: str, port: int) -> bool:
    return any(one["address"] == ADDRESSES[name][IPV4] and one["port"] == port for one in service["backends"])


@pytest.mark.needs_iptables
@pytest.mark.iptables_only
def test_no_chain_asks_for_more_clients_than_a_list_has(network: Network, family: str) -> None:
    _forget(network)
    network.applied([_sticky(family, backends=_endpoints(family, 24))])
    asked = Counter(line.split()[1] for line in network.rules().splitlines() if "--match-set L4-AFF-" in line)
    assert sum(asked.values()) > 24
    assert max(asked.values()) <= 8
