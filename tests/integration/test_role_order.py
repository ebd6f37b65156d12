# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles accept for backends and bridges does not come before what services refuse, whatever was there first."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds import World

from lab.namespaces import link
from playbooks import Controller

CIDR = "10.0.0.0/24"
BRIDGES: dict[str, Any] = {"service_proxy_bridges": [{"name": "br0", "mode": "promiscuous"}]}
NETWORK: dict[str, Any] = {"service_proxy_backend_cidrs": [CIDR]}
NOTHING: dict[str, Any] = {"service_proxy_backend_cidrs": [], "service_proxy_bridges": []}
ORDER = ["L4-FIREWALL", "L4-FORWARD", "L4-BRIDGE", "L4-BACKEND"]
OF_OTHERS = "-m comment --comment theirs -j ACCEPT"


class Routed(World):
    """A node with backends behind it, one of which asks for services."""

    def set_rules_of_others(self) -> None:
        """None: a drop of theirs would hide what is refused."""

    def build(self) -> None:
        self.backend = self.machine("b1")
        link(self.node, "be0", self.backend, "eth0")
        self.node.add_address("be0", "10.0.0.1/24")
        self.backend.add_address("eth0", "10.0.0.11/24")
        self.backend.add_route("default", "via", "10.0.0.1")
        self.node.add_route("default", "via", "10.0.0.11")
        self.node.add_bridge("br0")
        service = {"name": "none", "vip": "10.9.9.9", "port": 80, "backends": []}
        self.variables = {"service_proxy_services": [service], "service_proxy_local_cidrs": ["10.1.0.0/16"]}

    def forwarded(self) -> list[str]:
        """Where FORWARD leads to, in order."""
        return re.findall(r"-A FORWARD .*-j (\S+)", self.node.run("iptables-save", "-t", "filter").stdout)

    def is_refused(self) -> bool:
        """Whether a backend is told at once that the service has none."""
        return self.backend.call(_is_refused)


def _is_refused() -> bool:
    try:
        socket.create_connection(("10.9.9.9", 80), timeout=3).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


@pytest.fixture
def world() -> Iterator[Routed]:
    with Routed() as made:
        yield made


@pytest.fixture
def controller(world: Routed, tmp_path: Path) -> Controller:
    made = Controller(tmp_path)
    made.inventory({"node1": world.node}, world.variables)
    return made


@pytest.mark.semantics(16)
@pytest.mark.parametrize("dataplane", ["iptables", "nftables"])
def test_a_service_without_backends_is_refused_though_backends_get_their_network_later(
    world: Routed, controller: Controller, dataplane: str
) -> None:
    controller.run(service_proxy_dataplane=dataplane, **NOTHING)
    assert world.is_refused()
    controller.run(service_proxy_dataplane=dataplane, **NETWORK)
    assert world.is_refused()
    assert controller.run(service_proxy_dataplane=dataplane, **NETWORK).changed == 0


@pytest.mark.parametrize(
    "earlier",
    [[], [NOTHING], [NETWORK], [BRIDGES], [NOTHING, BRIDGES]],
    ids=["at once", "nothing", "network", "bridges", "both"],
)
def test_jumps_are_in_one_order_whatever_came_first(
    world: Routed, controller: Controller, earlier: list[dict[str, Any]]
) -> None:
    for variables in earlier:
        controller.run(**{**NOTHING, **variables})
    controller.run(**NETWORK, **BRIDGES)
    assert world.forwarded() == ORDER
    assert controller.run(**NETWORK, **BRIDGES).changed == 0


@pytest.mark.parametrize("again", ["run", "re-apply"])
def test_jumps_that_somebody_moved_are_put_in_their_order_again(
    world: Routed, controller: Controller, again: str
) -> None:
    controller.run(**NETWORK, **BRIDGES)
    backends = '-m comment --comment "L4 backends" -j L4-BACKEND'
    for command in (f"-D FORWARD {backends}", f"-I FORWARD 1 {backends}", f"-I FORWARD 1 {OF_OTHERS} -s 192.0.2.1"):
        world.node.run("sh", "-c", f"iptables {command}")
    if again == "run":
        assert controller.run(**NETWORK, **BRIDGES).changed == 1
    else:
        world.node.run("/usr/local/sbin/layer4-service-proxy", "boot", "reload")
    assert world.forwarded() == ["ACCEPT", *ORDER]
    assert controller.run(**NETWORK, **BRIDGES).changed == 0


def test_behind_somebodys_drop_what_is_for_backends_comes_to_the_front_with_what_is_for_services(
    world: Routed, controller: Controller
) -> None:
    controller.run(**NETWORK, **BRIDGES)
    world.node.run("iptables", "-I", "FORWARD", "1", "-j", "DROP")
    controller.run(**NETWORK, **BRIDGES)
    assert world.forwarded() == [*ORDER, "DROP"]
    assert controller.run(**NETWORK, **BRIDGES).changed == 0
