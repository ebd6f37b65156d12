# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each role alone in someone else's playbook, and what the roles refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from repetition import repetition
from worlds import World, differences

from playbooks import Controller

BRIDGES = {"service_proxy_bridges": [{"name": "br0", "mode": "hairpin", "ports": ["br0p0"]}]}
CIDRS: dict[str, Any] = {"service_proxy_local_cidrs": ["10.0.0.0/24", "fd00:10::/64"]}
PROMISCUOUS: dict[str, Any] = {"service_proxy_bridges": [{"name": "br0", "mode": "promiscuous"}]}
NFTABLES: dict[str, Any] = {"service_proxy_dataplane": "nftables"}
COPIES = 'iifname "br0" oifname "br0" ct state invalid drop comment "copies"'
SERVICES = {"service_proxy_services": [{"name": "http", "vip": "10.9.9.9", "port": 80, "backends": []}]}


class Bridged(World):
    """A node with a bridge of two ports."""

    def build(self) -> None:
        self.bridge("br0", "10.0.0.1", {"b1": "10.0.0.11", "b2": "10.0.0.21"})
        self.variables: dict[str, Any] = {}


@pytest.fixture
def world() -> Iterator[Bridged]:
    with Bridged() as made:
        yield made


@pytest.fixture
def controller(world: Bridged, tmp_path: Path) -> Controller:
    made = Controller(tmp_path)
    made.inventory({"node1": world.node}, {})
    return made


def including(controller: Controller, role: str, **variables: Any) -> Path:
    task = {"ansible.builtin.include_role": {"name": f"layer4.service_proxy.{role}"}, "vars": variables}
    return controller.play([{"name": "Include the role", **task}])


@pytest.mark.parametrize(
    ("role", "variables", "evidence"),
    [
        ("node", {**BRIDGES, **CIDRS}, "ipv6/conf/all/forwarding:1"),
        ("bridge", BRIDGES, "/sys/class/net/br0p0/brport/hairpin_mode:1"),
        ("backend", CIDRS, '-A FORWARD -m comment --comment "L4 backends" -j L4-BACKEND'),
        repetition("proxy", SERVICES, '-A PREROUTING -m comment --comment "L4 services" -j L4-SERVICES'),
        repetition("bridge", {**PROMISCUOUS, **NFTABLES}, f"\t\t{COPIES}"),
        repetition("backend", {**CIDRS, **NFTABLES}, "\tchain backend-postrouting {"),
        ("proxy", {**SERVICES, **NFTABLES}, "\tmap services {"),
    ],
    ids=["node", "bridge", "backend", "proxy", "bridge-nftables", "backend-nftables", "proxy-nftables"],
)
def test_a_role_alone_does_its_part_once_and_leaves_nothing(
    world: Bridged, controller: Controller, role: str, variables: dict[str, Any], evidence: str
) -> None:
    found = world.snapshot()
    playbook = including(controller, role, **variables)
    check = controller.run(playbook, check=True)
    assert differences(world.snapshot(), found) == []
    assert check.changes == controller.run(playbook).changes
    assert evidence in world.snapshot()
    assert controller.run(playbook).changes == []

    check = controller.run(playbook, check=True, service_proxy_state="absent")
    assert check.changes == controller.run(playbook, service_proxy_state="absent").changes
    left = differences(world.snapshot(), found)
    assert not left, "\n".join(left)


def test_rules_of_roles_move_from_one_packet_filter_to_the_other(world: Bridged, controller: Controller) -> None:
    found = world.snapshot()
    task = {"layer4.service_proxy.service_proxy_node": {"parts": ["bridge", "backend"]}}
    playbook = controller.play([{"name": "Both roles in one call", **task}])
    variables: dict[str, Any] = {**PROMISCUOUS, **CIDRS}
    controller.run(playbook, **variables)
    in_iptables = world.snapshot()
    check = controller.run(playbook, check=True, **variables, **NFTABLES)
    assert check.changes == controller.run(playbook, **variables, **NFTABLES).changes
    in_nftables = "\n".join(world.snapshot())
    assert "L4-" not in in_nftables
    assert COPIES in in_nftables
    assert "backend-postrouting" in in_nftables
    assert controller.run(playbook, **variables, **NFTABLES).changes == []
    controller.run(playbook, **variables)
    assert _rules(world.snapshot()) == _rules(in_iptables)
    controller.run(playbook, service_proxy_state="absent", **variables, **NFTABLES)
    assert differences(world.snapshot(), found) == []


def _rules(snapshot: list[str]) -> list[str]:
    return [line for line in snapshot if "layer4-service-proxy" not in line]


def test_what_is_no_longer_asked_for_is_given_back(world: Bridged, controller: Controller) -> None:
    found = world.snapshot()
    more = including(controller, "node", service_proxy_localhost_node_ports=True)
    assert controller.run(more, check=True).changes == controller.run(more).changes
    assert world.node.sysctl("net.ipv4.conf.all.route_localnet") == "1"
    assert "L4-LOCALHOST" in world.node.run("iptables-save").stdout, "localhost is open to neighbours"
    less = including(controller, "node")
    check = controller.run(less, check=True)
    assert check.changes == controller.run(less).changes
    assert world.node.sysctl("net.ipv4.conf.all.route_localnet") == "0"
    assert world.node.sysctl("net.ipv4.ip_forward") == "1"
    assert controller.run(less).changes == []
    controller.run(including(controller, "node", service_proxy_state="absent"))
    assert differences(world.snapshot(), found) == []


def test_a_mode_that_was_there_before_stays_when_the_role_goes(world: Bridged, controller: Controller) -> None:
    world.node.run("bridge", "link", "set", "dev", "br0p1", "hairpin", "on")
    bridges = {"service_proxy_bridges": [{"name": "br0"}]}
    controller.run(including(controller, "bridge", **bridges))
    controller.run(including(controller, "bridge", service_proxy_state="absent", **bridges))
    modes = [
        world.node.run("cat", f"/sys/class/net/{port}/brport/hairpin_mode").stdout.strip()
        for port in ("br0p0", "br0p1")
    ]
    assert modes == ["0", "1"]


@pytest.mark.parametrize(
    ("role", "variables", "message"),
    [
        ("bridge", {"service_proxy_bridges": [{"name": "br7"}]}, "node1 has no bridge or bridge port named br7"),
        (
            "bridge",
            {"service_proxy_bridges": [{"name": "br0", "ports": ["veth7"]}]},
            "node1 has no bridge or bridge port named veth7",
        ),
        ("bridge", {"service_proxy_bridges": [{"name": "br0", "mode": "both"}]}, "value of mode must be one of"),
        ("node", {"service_proxy_state": "gone"}, "value of service_proxy_state must be one of"),
        ("proxy", {"service_proxy_services": [{"name": "http"}]}, "port"),
    ],
    ids=["bridge", "port", "mode", "state", "service"],
)
def test_wrong_values_are_refused_before_anything_is_changed(
    world: Bridged, controller: Controller, role: str, variables: dict[str, Any], message: str
) -> None:
    found = world.snapshot()
    run = controller.run(including(controller, role, **variables), expect_failure=True)
    assert message in run.message
    assert differences(world.snapshot(), found) == []
