# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes under load: destinations that drain, runs that were killed, and a node that changes its dataplane."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, backends, vip

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import RUN_DIRECTORY
from lab.traffic import LongLivedConnection, Servers, Tally

STEADY = 9000


def _web(*names: str, family: str = IPV4, **options: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "vip": vip(1, family),
        "port": 80,
        "backends": backends(*names, family=family, port=STEADY),
        **options,
    }


@contextmanager
def _steady(network: Network, *names: str, family: str = IPV4) -> Iterator[None]:
    """Backends that keep their connections open."""
    with Servers() as servers:
        for name in names:
            servers.serve(network.hosts[name], name, ADDRESSES[name][family], STEADY, keep_open=True)
        yield


def _connected(network: Network, backend: str, family: str = IPV4) -> LongLivedConnection:
    """An open connection to this backend of the round robin."""
    for dummy in range(4):
        connection = LongLivedConnection(network.hosts["client"], vip(1, family), 80, timeout=10)
        if connection.first.backend == backend:
            return connection
        connection.close()
    raise AssertionError(f"{backend} was never chosen")


def _weights(network: Network) -> dict[str, str]:
    lines = network.hosts["node1"].run("ipvsadm", "-Sn").stdout.splitlines()
    words = [line.split() for line in lines if line.startswith("-a")]
    return {one[4].rpartition(":")[0]: one[-1] for one in words}


@pytest.mark.semantics(22)
def test_a_removed_destination_first_finishes_its_connections(network: Network) -> None:
    with _steady(network, "b11", "b12"):
        network.applied([_web("b11", "b12", scheduler="rr")])
        results: list[dict[str, Any]] = []
        with _connected(network, "b11") as connection:
            settings = {"drain_timeout": 60}
            thread = threading.Thread(
                target=lambda: results.append(network.apply([_web("b12", scheduler="rr")], node=settings))
            )
            started = time.monotonic()
            thread.start()
            _until(lambda: _weights(network).get(ADDRESSES["b11"][IPV4]) == "0")
            assert connection.ask().backend == "b11"
            assert set(network.ask("client", vip(1, IPV4), 80, count=6).backends) == {"b12"}
            assert thread.is_alive(), "it waits for the connection"
        thread.join()
        assert time.monotonic() - started < 50, "it waits no longer than for the connection"
        assert not results[0].get("failed"), results[0].get("msg")
        assert set(_weights(network)) == {ADDRESSES["b12"][IPV4]}


def _until(holds: Any) -> None:
    give_up = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.semantics(22)
def test_a_drain_ends_after_its_time_and_without_one_at_once(network: Network) -> None:
    """What is left of the connection is reset, by expire_nodest_conn, instead of being dropped in silence."""
    with _steady(network, "b11", "b12"):
        for timeout in (0, 3):
            network.applied([_web("b11", "b12", scheduler="rr")])
            with _connected(network, "b11") as connection:
                started = time.monotonic()
                network.applied([_web("b12", scheduler="rr")], node={"drain_timeout": timeout})
                assert time.monotonic() - started >= timeout
                with pytest.raises(OSError):
                    connection.ask()


@pytest.mark.semantics(22)
def test_a_weight_of_0_that_a_killed_run_left_is_healed(network: Network) -> None:
    at = ADDRESSES["b11"][IPV4]
    with _steady(network, "b11", "b12"):
        network.applied([_web("b11", "b12", scheduler="rr")])
        network.hosts["node1"].run("ipvsadm", "-e", "-t", f"{vip(1, IPV4)}:80", "-r", f"{at}:{STEADY}", "-m", "-w", "0")
        assert network.applied([_web("b11", "b12", scheduler="rr")])["updated"] == ["web"]
        assert _weights(network)[at] == "1"


@pytest.mark.semantics(20)
def test_connections_to_destinations_that_stay_go_on(network: Network, family: str) -> None:
    with _steady(network, "b11", "b12", "b21", family=family):
        network.applied([_web("b11", "b12", family=family, scheduler="rr")])
        with _connected(network, "b12", family) as connection:
            for names in (("b11", "b12", "b21"), ("b12", "b21"), ("b12",)):
                network.applied([_web(*names, family=family, scheduler="rr")])
                assert connection.ask().backend == "b12"


def test_whatever_a_killed_run_has_done_the_next_one_heals_it(network: Network) -> None:
    node = network.hosts["node1"]
    services = [{**_web("b11", "b12"), "name": f"s{n}", "vip": vip(20 + n, IPV4)} for n in range(40)]
    network.applied([], state="absent")
    network.applied(services)
    whole = sorted(node.run("ipvsadm", "-Sn").stdout.splitlines())
    moments = _durations(network, services)
    for part in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        network.applied([], state="absent")
        _killed_after(network, services, moments * part)
        network.applied(services)
        assert sorted(node.run("ipvsadm", "-Sn").stdout.splitlines()) == whole, part
        assert not network.applied(services)["changed"], part


def _durations(network: Network, services: list[dict[str, Any]]) -> float:
    network.applied([], state="absent")
    started = time.monotonic()
    network.applied(services)
    return time.monotonic() - started


def _killed_after(network: Network, services: list[dict[str, Any]], seconds: float) -> None:
    from module_runner import run_module

    arguments = {"services": services, "exclusive": True, "dataplane": "ipvs", "node": {"name": "node1"}}
    try:
        run_module(network.hosts["node1"], "vip_service", arguments, timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def test_with_the_last_service_goes_what_runs_have_left_for_the_next(network: Network) -> None:
    network.applied([], state="absent")
    before = _remembered()
    network.applied([_web("b11")])
    left = _remembered() - before
    assert left
    network.applied([], state="absent")
    assert not left & _remembered()


def _remembered() -> set[str]:
    """What runs have left under /run."""
    return {path.name for path in RUN_DIRECTORY.glob("*")}


class TestSwitch:
    """From iptables to ipvs and back, with clients that ask all the time."""

    @pytest.mark.semantics(23)
    @pytest.mark.parametrize("drain_timeout", [60, 0])
    def test_no_connection_fails_and_nothing_of_the_other_stays(self, network: Network, drain_timeout: int) -> None:
        node = network.hosts["node1"]
        network.applied([_web("b11")])  # tables of iptables-nft stay, empty
        network.applied([], state="absent")
        before = _remembered()
        with _steady(network, "b11", "b12"):
            network.applied([_web("b11", "b12")], dataplane="iptables")
            iptables, of_iptables = network.rules(), _remembered() - before
            assert of_iptables
            with _load(network) as tallies:
                switched = network.applied([_web("b11", "b12")], dataplane="ipvs")
                ipvs = network.rules()
                assert not of_iptables & _remembered()
                back = network.applied(
                    [_web("b11", "b12")], dataplane="iptables", node={"drain_timeout": drain_timeout}
                )
            assert [result["updated"] for result in (switched, back)] == [["web"], ["web"]]
            assert "L4-SVC-" not in ipvs
            assert network.rules() == iptables
            assert node.run("ipvsadm", "-Sn").stdout == ""
            assert "l4-ipvs0" not in node.ip("link", "show")
            assert node.run("ipset", "list", "-n").stdout == ""
        assert sum(tally.answered for tally in tallies) > 50
        assert sum(tally.failed for tally in tallies) == 0

    @pytest.mark.semantics(23)
    def test_connections_that_iptables_made_go_on_under_ipvs(self, network: Network, family: str) -> None:
        with _steady(network, "b11", family=family):
            network.applied([_web("b11", family=family)], dataplane="iptables")
            with _connected(network, "b11", family) as connection:
                network.applied([_web("b11", family=family)], dataplane="ipvs")
                assert connection.ask().backend == "b11"

    @pytest.mark.semantics(23)
    def test_connections_that_ipvs_made_may_finish_in_the_time_of_the_drain(self, network: Network) -> None:
        with _steady(network, "b11"):
            network.applied([_web("b11")])
            results: list[dict[str, Any]] = []
            with _connected(network, "b11") as connection:
                how: dict[str, Any] = {"dataplane": "iptables", "node": {"drain_timeout": 60}}
                thread = threading.Thread(target=lambda: results.append(network.apply([_web("b11")], **how)))
                thread.start()
                _until(lambda: "L4-SVC-" in network.rules())
                assert connection.ask().backend == "b11"
                assert network.ask("client", vip(1, IPV4), 80, count=5).answered == 5
                assert thread.is_alive()
            thread.join()
            assert not results[0].get("failed"), results[0].get("msg")
            assert network.hosts["node1"].run("ipvsadm", "-Sn").stdout == ""

    def test_a_run_by_name_leaves_no_service_behind(self, network: Network) -> None:
        other = {**_web("b12"), "name": "other", "vip": vip(2, IPV4)}
        for had, wanted in (("iptables", "ipvs"), ("ipvs", "iptables")):
            network.applied([_web("b11"), other], dataplane=had)
            before = network.rules()
            refused = network.apply([_web("b11")], dataplane=wanted, exclusive=False)
            assert refused["failed"]
            assert f"other would be left in dataplane {had}" in refused["msg"]
            assert network.rules() == before
            network.applied([_web("b11"), other], dataplane=wanted, exclusive=False)

    def test_what_is_predicted_is_done(self, network: Network) -> None:
        for had, wanted in (("iptables", "ipvs"), ("ipvs", "iptables")):
            network.applied([_web("b11")], dataplane=had)
            predicted = network.apply([_web("b11")], dataplane=wanted, check=True)
            done = network.applied([_web("b11")], dataplane=wanted)
            assert done["diff"] == predicted["diff"]
            assert not network.applied([_web("b11")], dataplane=wanted)["changed"]


@contextmanager
def _load(network: Network) -> Iterator[list[Tally]]:
    tallies: list[Tally] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            tallies.append(network.ask("client", vip(1, IPV4), 80, count=10))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield tallies
    finally:
        done.set()
        thread.join()
