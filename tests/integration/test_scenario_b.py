# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scenario B: a machine that fronts another on the same subnet, once with a given source address and once masquerading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from worlds import Converged, World

from lab.namespaces import link
from lab.traffic import connect
from playbooks import Controller

NODE, BACKEND, CLIENT = "192.168.122.34", "192.168.122.179", "192.168.122.1"


class ScenarioB(World):
    """vm-1 is the node."""

    def __init__(self, snat_address: str | None) -> None:
        super().__init__()
        self.snat_address = snat_address

    def build(self) -> None:
        segment, self.backend, self.client = (self.machine(name) for name in ("lan", "vm2", "client"))
        for number, (machine, address) in enumerate(
            ((self.node, NODE), (self.backend, BACKEND), (self.client, CLIENT))
        ):
            link(machine, "eth0", segment, f"port{number}")
            machine.add_address("eth0", f"{address}/24")
        segment.add_bridge("lan", *(f"port{number}" for number in range(3)))
        self.servers.serve(self.backend, "vm-2", BACKEND, 80)
        for port in (22, 8080):
            self.servers.serve(self.node, "vm-1", NODE, port)
        self.variables = {
            "service_proxy_snat_address": self.snat_address,
            "service_proxy_services": [
                {"name": "front", "external_ips": [NODE], "port": 80, "backends": [{"address": BACKEND}]}
            ],
        }


@pytest.fixture(scope="module", params=[NODE, None], ids=["snat", "masquerade"])
def converged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    with ScenarioB(request.param) as world:
        yield Converged(world, Controller(tmp_path_factory.mktemp("controller")))


@pytest.fixture
def world(converged: Converged) -> ScenarioB:
    assert isinstance(converged.world, ScenarioB)
    return converged.world


def test_the_run_is_predicted_and_once_is_enough(converged: Converged) -> None:
    converged.assert_as_promised()


def test_who_asks_the_first_machine_gets_the_seconds_page(world: ScenarioB) -> None:
    assert connect(world.client, NODE, 80, count=100).answers == {("vm-2", NODE): 100}


def test_the_first_machine_gets_it_by_its_own_address_too(world: ScenarioB) -> None:
    assert connect(world.node, NODE, 80, count=100).answers == {("vm-2", NODE): 100}


def test_the_source_address_is_set_as_asked(world: ScenarioB) -> None:
    rules = world.node.run("iptables-save", "-t", "nat").stdout
    assert ("-j SNAT --to-source 192.168.122.34" in rules) == (world.snat_address is not None)


def test_other_ports_are_untouched(world: ScenarioB) -> None:
    for port in (22, 8080):
        assert connect(world.client, NODE, port).answers == {("vm-1", CLIENT): 1}
    assert connect(world.client, NODE, 81).failures == {"refused": 1}


def test_the_second_machine_is_reached_directly_as_before(world: ScenarioB) -> None:
    assert connect(world.client, BACKEND, 80).answers == {("vm-2", CLIENT): 1}


def test_when_it_goes_the_node_is_as_it_was_found(converged: Converged) -> None:
    converged.assert_leaves_nothing()
