# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role overlay alone: what it refuses, repairs, restores at boot and takes away, on three nodes that have nothing else of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from overlay_network import CIDRS, OverlayNetwork
from worlds import SNAPSHOT, assert_same_changes, differences

from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.overlay import plan_overlay
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Settings
from playbooks import Run

PROGRAM = "/usr/local/sbin/layer4-service-proxy"
FOUND = SNAPSHOT + "ip -o address | sed 's/ valid_lft.*//'; ip route show table all; ip -6 route show table all\n"
ASKED = {
    **DEFAULTS,
    "name": "node1",
    "overlay": "routes",
    "overlay_address": ["192.0.2.1"],
    "overlay_nodes": [{"name": "node2", "address": ["192.0.2.2"], "cidrs": CIDRS["node2"][:1]}],
}
FOREIGN = ("10.97.0.0/24", "via", "192.0.2.9")
STRAYS = [
    {
        "name": "web",
        "vip": "10.96.0.9",
        "port": 80,
        "backends": [{"address": one, "node": "node2"} for one in ("10.66.0.1", "10.0.2.5", "192.0.2.2")],
    }
]
EDITS = """
ip route del 10.0.2.0/24 proto 76
ip route add blackhole 10.99.0.0/24 proto 76
ip link set l4-vxlan0 down
ip link set l4-vxlan0 mtu 1300 address 02:00:00:00:00:01
bridge fdb add 02:00:00:00:00:02 dev l4-vxlan0 dst 192.0.2.9
ip address add 10.98.0.1/24 dev l4-vxlan0
"""
"""What people do by hand."""


class Life:
    """Three nodes in one network, and the role alone in somebody else's playbook."""

    def __init__(self, network: OverlayNetwork) -> None:
        self.network, self.node = network, network.nodes["node1"]

    def run(self, overlay: str, check: bool = False, **variables: Any) -> Run:
        """The role on node1, which knows the others by the inventory. Variables are the task's."""
        self.network.inventory("routes")
        given = {"service_proxy_overlay": overlay, "service_proxy_services": [], **variables}
        path = self.network.controller.directory / "hosts.yml"
        found = yaml.safe_load(path.read_text())
        del found["service_proxy"]["vars"]["service_proxy_overlay"]
        path.write_text(yaml.safe_dump({"machines": found["service_proxy"]}))
        task = {"name": "Include the role", "ansible.builtin.include_role": {"name": "layer4.service_proxy.overlay"}}
        playbook = self.network.controller.play([{**task, "vars": given, "when": "inventory_hostname == 'node1'"}])
        return self.network.controller.run(playbook, check)

    def snapshot(self) -> list[str]:
        """All that a run may leave something in."""
        lines = self.node.run("sh", "-c", FOUND).stdout.splitlines()
        return [line for line in lines if "fe80:" not in line and "ff00:" not in line]

    def held(self) -> list[str]:
        return self.network.held("node1")

    def flush(self) -> None:
        """Take away all of the overlay, as a boot does."""
        self.node.run(
            "sh", "-c", "ip link delete l4-vxlan0; ip route flush proto 76; ip -6 route flush proto 76", check=False
        )
        assert self.held() == []

    def program(self, *words: str) -> str:
        """What the node's program says, on both outputs."""
        done = self.node.run(PROGRAM, *words, check=False)
        return f"{done.returncode}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with OverlayNetwork(tmp_path_factory.mktemp("controller"), apart=False) as network:
        yield Life(network)


def warned(run: Run) -> list[str]:
    return [warning for _task, _host, result in run.results for warning in result.get("warnings", ())]


def test_it_is_restored_switched_put_right_and_leaves_the_host_as_it_was_found(life: Life) -> None:
    """One life, since a run takes seconds."""
    life.node.run("ip", "route", "add", *FOREIGN)
    found, foreign = life.snapshot(), life.network.routes_of_others("node1")
    assert "10.97.0.0/24 via 192.0.2.9" in foreign

    run = life.run("routes", service_proxy_services=STRAYS)
    routes = life.held()
    assert [line for line in warned(run) if "backend " in line] == [
        "backend 10.66.0.1 of node2 is in none of service_proxy_backend_cidrs of node2, so that the overlay does not lead there"
    ]
    assert [line for line in routes if "l4-vxlan0" in line] == []
    booted(life, waits=True)
    assert life.held() == routes
    booted_beside_a_route_of_somebody_else(life)

    check = life.run("vxlan", check=True, service_proxy_reapply=True)
    assert_same_changes(check, life.run("vxlan", service_proxy_reapply=True))
    vxlan = life.held()
    assert [line for line in vxlan if "dev eth0" in line] == []
    booted(life)
    watched(life)
    assert life.held() == vxlan
    life.node.run("sh", "-ec", EDITS)
    check = life.run("vxlan", check=True, service_proxy_reapply=True)
    assert_same_changes(check, life.run("vxlan", service_proxy_reapply=True))
    assert life.held() == vxlan

    life.run("routes")
    assert life.held() == routes
    assert life.network.routes_of_others("node1") == foreign
    check = life.run("none", check=True)
    assert_same_changes(check, life.run("none"))
    assert differences(life.snapshot(), found) == []


def booted(life: Life, waits: bool = False) -> None:
    """The overlay is brought back once the network is there. waits: because it cannot be earlier."""
    assert "stands      yes" in life.program("status")
    life.flush()
    assert "overlay.overlay does not stand" in life.program("status")
    assert life.program("boot", "restore").startswith("0")
    assert life.held() == []
    life.node.run("ip", "link", "set", "eth0", "down")
    booting = life.node.start(PROGRAM, "boot", "overlay")
    assert not waits or booting.poll() is None
    life.network.up("node1")
    life.node.run("ip", "route", "add", *FOREIGN)
    assert booting.wait(60) == 0


def booted_beside_a_route_of_somebody_else(life: Life) -> None:
    """It stays, and is told."""
    before = life.held()
    life.flush()
    life.node.run("ip", "route", "add", "10.0.2.0/24", "via", "192.0.2.9")
    told = life.program("boot", "reload")
    assert told == "1\noverlay.overlay: 10.0.2.0/24 via 192.0.2.2 dev eth0 proto 76: File exists\n"
    assert life.held() == [line for line in before if not line.startswith("10.0.2.0/24")]
    life.node.run("ip", "route", "del", "10.0.2.0/24")


def watched(life: Life) -> None:
    """The watch brings back what somebody takes away."""
    assert life.program("boot", "watch") == "0\n"
    life.node.run("ip", "route", "del", "10.0.2.0/24")
    assert "overlay.overlay did not stand any more" in life.program("boot", "watch")


@pytest.mark.parametrize(
    ("settings", "obstacle", "message"),
    [
        (
            {"overlay": "vxlan"},
            "ip route add 10.0.2.0/24 via 192.0.2.9",
            "node1 has a route of somebody else to 10.0.2.0/24",
        ),
        ({}, "ip route add 10.0.2.0/24 via 192.0.2.9", '"10.0.2.0/24 via 192.0.2.9 dev eth0 proto 3"'),
        ({"overlay": "vxlan"}, "ip link add l4-vxlan0 type bridge", "of kind bridge already, which is not ours"),
        (
            {"overlay": "vxlan", "vxlan_id": 7},
            "ip link add other type vxlan id 7 dstport 4789 local 192.0.2.1",
            "service_proxy_vxlan_id is 7 and service_proxy_vxlan_port 4789, as device other of node1 has them already",
        ),
        ({"overlay_address": ["192.0.2.77"]}, "true", "must be an address that this host has"),
        (
            {"overlay_nodes": [{"name": "far", "address": ["198.51.100.7"], "cidrs": ["10.7.0.0/24"]}]},
            "true",
            "198.51.100.7 of far is behind a gateway of node1 on eth0",
        ),
    ],
)
def test_what_stands_in_the_way_is_found(life: Life, settings: dict[str, Any], obstacle: str, message: str) -> None:
    """As the kernel tells it; the unit tests have the texts."""
    life.node.run("sh", "-c", obstacle)
    try:
        with pytest.raises(NodeError, match=re.escape(message)):
            life.node.call(plan_overlay, Settings({**ASKED, **settings}))
    finally:
        life.node.run("sh", "-c", obstacle.replace(" add ", " del ").partition(" type ")[0])
