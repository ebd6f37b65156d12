# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""drain.yml and undrain.yml on two nodes, with connections that last and new ones.

client, both nodes and both backends are on one segment; the client reaches service web by 10.0.9.1 through node1 and by
10.0.9.2 through node2.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import Host
from lab.namespaces import Namespace, link
from lab.traffic import LongLivedConnection, Servers, Tally, connect
from module_runner import COLLECTION
from playbooks import Controller, Run

FIRST, SECOND = "10.0.0.11", "10.0.0.12"
NODES = {"node1": "10.0.0.1", "node2": "10.0.0.2"}
BY_NODE = {"node1": "10.0.9.1", "node2": "10.0.9.2"}
DRAIN, UNDRAIN = (COLLECTION / "playbooks" / name for name in ("drain.yml", "undrain.yml"))
LIST = "/var/lib/layer4-service-proxy.drained"
SERVICE = {
    "name": "web",
    "external_ips": list(BY_NODE.values()),
    "port": 80,
    "backends": [
        {"address": FIRST, "port": 8080, "node": "host1"},
        {"address": SECOND, "port": 8080, "node": "host2"},
    ],
}


class Fleet:
    """A context manager: two nodes that have run site.yml, two backends, a client."""

    def __init__(self, directory: Path) -> None:
        self.controller = Controller(directory)
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        prefix = f"l4dr{os.getpid()}"
        with self._stack as stack:
            segment, self.client, *served = (
                stack.enter_context(Namespace(f"{prefix}-{name}")) for name in ("lan", "client", "b1", "b2")
            )
            self.nodes = {name: stack.enter_context(Host(f"{prefix}-{name}")) for name in NODES}
            machines = dict(
                zip([*NODES.values(), FIRST, SECOND, "10.0.0.100"], [*self.nodes.values(), *served, self.client])
            )
            for number, (address, machine) in enumerate(machines.items()):
                link(machine, "eth0", segment, f"port{number}")
                machine.add_address("eth0", f"{address}/24")
                machine.add_route("default", "via", "10.0.0.100") if machine is not self.client else None
            segment.add_bridge("lan", *(f"port{number}" for number in range(len(machines))))
            for node, address in BY_NODE.items():
                self.client.add_route(address, "via", NODES[node])
            servers = stack.enter_context(Servers())
            for name, machine, address in zip(("first", "second"), served, (FIRST, SECOND)):
                servers.serve(machine, name, address, 8080, keep_open=True)
            self.controller.inventory(self.nodes, {"service_proxy_services": [SERVICE]})
            self.controller.run()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *dummy: object) -> None:
        self._stack.close()

    def backends(self, node: str = "node1") -> set[str]:
        """Who answers new connections through a node."""
        tally = self.ask(node)
        assert tally.answered == 30, tally
        return set(tally.backends)

    def ask(self, node: str) -> Tally:
        return connect(self.client, BY_NODE[node], 80, count=30, timeout=5)

    def list(self, node: str = "node1") -> str:
        return self.nodes[node].run("sh", "-c", f"cat {LIST} 2> /dev/null || true").stdout

    def connection_to_first(self) -> LongLivedConnection:
        """Through node1."""
        while True:
            connection = LongLivedConnection(self.client, BY_NODE["node1"], 80, timeout=5)
            if connection.first.backend == "first":
                return connection
            connection.close()

    def drain(self, backend: str = FIRST, seconds: int = 0, **how: Any) -> Run:
        return self.controller.run(DRAIN, service_proxy_backend=backend, service_proxy_drain_seconds=seconds, **how)

    def undrain(self, backend: str = FIRST, **how: Any) -> Run:
        return self.controller.run(UNDRAIN, service_proxy_backend=backend, **how)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("controller")) as fleet:
        yield fleet


@pytest.fixture
def fleet(made: Fleet) -> Iterator[Fleet]:
    """Nothing is drained before and after a test."""
    yield made
    for node in made.nodes.values():
        node.run("rm", "-f", LIST)
    if any(set(made.ask(node).backends) != {"first", "second"} for node in NODES):
        made.controller.run()
    assert made.backends() == {"first", "second"}


def reports(run: Run) -> dict[str, str]:
    """What is left, by node."""
    return {
        host: result["msg"]
        for task, host, result in run.results
        if task.endswith("Report the connections that are left")
    }


def test_drained_it_keeps_what_it_has_and_gets_nothing_new_until_brought_back(fleet: Fleet) -> None:
    with fleet.connection_to_first() as connection:
        predicted = fleet.drain(check=True)
        assert fleet.backends() == {"first", "second"}
        drained = fleet.drain(seconds=3)
        assert predicted.changes == drained.changes
        assert drained.changed > 0
        assert all(fleet.backends(node) == {"second"} for node in NODES)
        assert connection.ask().backend == "first"
        left = reports(drained)
        for node, words in (
            ("node1", rf"1 connections to {FIRST} are left after (\S+) seconds: 1 to {FIRST}:8080/tcp"),
            ("node2", rf"no connections to {FIRST} are left after (\S+) seconds"),
        ):
            waited = re.fullmatch(words, left[node])
            assert waited, left[node]
            assert (float(waited[1]) >= 3) == (node == "node1")
        assert fleet.drain().changed == 0
        # site.yml neither forgets it nor is silent about it
        site = fleet.controller.run()
        assert site.changed == 0
        assert f"Drained, so that they take no new connections: {FIRST}" in site.output
        assert fleet.backends() == {"second"}
        predicted = fleet.undrain(check=True)
        back = fleet.undrain()
        assert predicted.changes == back.changes
        assert all(fleet.backends(node) == {"first", "second"} for node in NODES)
        assert connection.ask().backend == "first"
    assert fleet.undrain().changed == 0
    assert fleet.list() == ""


def test_waiting_ends_with_the_last_connection(fleet: Fleet) -> None:
    connection = fleet.connection_to_first()
    with ThreadPoolExecutor(max_workers=1) as threads:
        running = threads.submit(fleet.drain, seconds=120)
        try:
            while fleet.backends() != {"second"}:
                assert not running.done(), running.result().output
                time.sleep(0.5)
            time.sleep(4)
            assert connection.ask().backend == "first"
            assert not running.done()
        finally:
            connection.close()
        left = reports(running.result(timeout=60))
    assert left["node1"].startswith(f"no connections to {FIRST} are left after ")
    assert 1 < float(left["node1"].split()[-2]) < 60


@pytest.mark.parametrize("backend", [f"{FIRST}:8080", "host1"])
def test_a_backend_goes_by_its_port_or_its_node_too(fleet: Fleet, backend: str) -> None:
    fleet.drain(backend)
    assert fleet.list("node2") == f"{backend}\n"
    assert fleet.backends("node2") == {"second"}


def test_the_list_of_the_inventory_drains_and_holds_against_undrain(fleet: Fleet) -> None:
    fleet.controller.run(service_proxy_drained=["host1"])
    assert fleet.backends() == {"second"}
    refused = fleet.undrain(FIRST, service_proxy_drained=["host1"], expect_failure=True)
    assert f'backend is "{FIRST}", which stays drained' in refused.message
    assert 'in service_proxy_drained ["host1"]' in refused.message
    assert refused.changed == 0
    fleet.controller.run()
    assert fleet.backends() == {"first", "second"}


def test_what_is_no_backend_is_refused_before_anything_is_touched(fleet: Fleet) -> None:
    for backend, asked in (("10.0.0.99", fleet.drain), (f"{FIRST}:81", fleet.undrain), ("node1", fleet.drain)):
        refused = asked(backend, expect_failure=True)
        messages = set(refused.message.splitlines())
        assert len(messages) == 1
        assert messages.pop().startswith(f'service_proxy_backend is "{backend}", which no service has')
        assert refused.changed == 0
    assert fleet.list() == ""


def test_the_backend_has_to_be_said_and_the_bound_is_a_number(fleet: Fleet) -> None:
    refused = fleet.controller.run(DRAIN, expect_failure=True)
    assert 'service_proxy_backend is "": must be the address of a backend' in refused.message
    refused = fleet.controller.run(
        DRAIN, service_proxy_backend=FIRST, service_proxy_drain_seconds="soon", expect_failure=True
    )
    assert 'service_proxy_drain_seconds is "soon": must be an integer from 0 to' in refused.message
    assert fleet.list() == ""


def test_removing_everything_forgets_what_was_drained(fleet: Fleet) -> None:
    fleet.drain()
    assert fleet.list() == f"{FIRST}\n"
    fleet.controller.run(service_proxy_state="absent")
    assert fleet.list() == ""
