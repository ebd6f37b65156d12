# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role overlay alone: what it refuses, repairs, restores at boot and takes away, on three nodes that have nothing else of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from overlay_network import OverlayNetwork
from worlds import SNAPSHOT, assert_same_changes, differences

from playbooks import Run

PROGRAM = "/usr/local/sbin/layer4-service-proxy"
FOUND = SNAPSHOT + "ip -o address | sed 's/ valid_lft.*//'; ip route show table all; ip -6 route show table all\n"


class Life:
    """Three nodes in one network, and the role alone in somebody else's playbook."""

    def __init__(self, network: OverlayNetwork) -> None:
        self.network, self.node = network, network.nodes["node1"]

    def run(self, overlay: str, check: bool = False, fails: bool = False, **variables: Any) -> Run:
        """The role on node1, which knows the others by the inventory. Variables are the task's."""
        self.network.inventory("routes")
        given = {"service_proxy_overlay": overlay, "service_proxy_services": [], **variables}
        path = self.network.controller.directory / "hosts.yml"
        found = yaml.safe_load(path.read_text())
        del found["service_proxy"]["vars"]["service_proxy_overlay"]
        path.write_text(yaml.safe_dump({"machines": found["service_proxy"]}))
        task = {"name": "Include the role", "ansible.builtin.include_role": {"name": "layer4.service_proxy.overlay"}}
        playbook = self.network.controller.play([{**task, "vars": given, "when": "inventory_hostname == 'node1'"}])
        return self.network.controller.run(playbook, check, fails)

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with OverlayNetwork(tmp_path_factory.mktemp("controller"), apart=False) as network:
        yield Life(network)


@pytest.fixture
def life(made: Life) -> Iterator[Life]:
    """With nothing of ours, before and after."""
    yield made
    made.run("none", service_proxy_state="absent")


def warned(run: Run) -> list[str]:
    return [warning for _task, _host, result in run.results for warning in result.get("warnings", ())]


def test_it_is_switched_and_leaves_the_host_as_it_was_found(life: Life) -> None:
    found = life.snapshot()
    held: dict[str, list[str]] = {}
    for overlay in ("routes", "vxlan", "routes"):
        check = life.run(overlay, check=True)
        assert_same_changes(check, life.run(overlay))
        assert held.setdefault(overlay, life.held()) == life.held()
        assert life.run(overlay).changes == []
    assert [line for line in held["routes"] if "l4-vxlan0" in line] == []
    assert [line for line in held["vxlan"] if "dev eth0" in line] == []
    check = life.run("none", check=True)
    assert_same_changes(check, life.run("none"))
    assert differences(life.snapshot(), found) == []
    life.run("vxlan")
    check = life.run("vxlan", check=True, service_proxy_state="absent")
    assert_same_changes(check, life.run("vxlan", service_proxy_state="absent"))
    assert differences(life.snapshot(), found) == []


def test_what_was_edited_by_hand_is_put_right(life: Life) -> None:
    life.node.run("ip", "route", "add", "10.97.0.0/24", "via", "192.0.2.9")
    life.run("vxlan")
    before, foreign = life.held(), life.network.routes_of_others("node1")
    assert "10.97.0.0/24 via 192.0.2.9" in foreign
    for command in (
        "ip route del 10.0.2.0/24 proto 76; ip route add blackhole 10.99.0.0/24 proto 76",
        "ip link set l4-vxlan0 down; ip link set l4-vxlan0 mtu 1300 address 02:00:00:00:00:01",
        "bridge fdb add 02:00:00:00:00:02 dev l4-vxlan0 dst 192.0.2.9; ip address add 10.98.0.1/24 dev l4-vxlan0",
    ):
        life.node.run("sh", "-ec", command)
    check = life.run("vxlan", check=True)
    assert_same_changes(check, life.run("vxlan"))
    assert life.held() == before
    assert life.network.routes_of_others("node1") == foreign
    life.node.run("ip", "route", "del", "10.97.0.0/24")


@pytest.mark.parametrize(
    ("overlay", "variables", "obstacle", "message"),
    [
        ("routes", {}, "ip route add 10.0.2.0/24 via 192.0.2.9", '"10.0.2.0/24 via 192.0.2.9 dev eth0 proto 3"'),
        ("vxlan", {}, "ip -6 route add fd00:2::/64 via 2001:db8:1::9", "a route of somebody else to fd00:2::/64"),
        (
            "vxlan",
            {},
            "ip link add l4-vxlan0 type bridge",
            "a device l4-vxlan0 of kind bridge already, which is not ours",
        ),
        (
            "vxlan",
            {"service_proxy_vxlan_id": 7},
            "ip link add other type vxlan id 7 dstport 4789 local 192.0.2.1",
            "service_proxy_vxlan_id is 7 and service_proxy_vxlan_port 4789, as device other of node1 has them already",
        ),
        (
            "routes",
            {"service_proxy_overlay_address": ["192.0.2.77", "2001:db8:1::1"]},
            "true",
            "must be an address that this host has",
        ),
        (
            "routes",
            {"service_proxy_overlay_nodes": [{"name": "far", "address": ["198.51.100.7"], "cidrs": ["10.7.0.0/24"]}]},
            "true",
            "198.51.100.7 of far is behind a gateway of node1 on eth0",
        ),
        (
            "vxlan",
            {"service_proxy_vxlan_networks": ["10.0.0.0/8", "fd4c::/64"]},
            "true",
            "has 10.0.0.0/8, which holds 10.0.1.0/24",
        ),
    ],
)
def test_a_clash_is_refused_before_anything_is_changed(
    life: Life, overlay: str, variables: dict[str, Any], obstacle: str, message: str
) -> None:
    found = life.snapshot()
    life.node.run("sh", "-c", obstacle)
    before = life.snapshot()
    run = life.run(overlay, fails=True, **variables)
    assert [line for line in run.message.splitlines() if message in line]
    assert differences(life.snapshot(), before) == []
    life.node.run("sh", "-c", obstacle.replace(" add ", " del ").partition(" type ")[0])
    assert differences(life.snapshot(), found) == []


@pytest.mark.parametrize("overlay", ["routes", "vxlan"])
def test_a_boot_brings_it_back_once_the_network_is_there(life: Life, overlay: str) -> None:
    life.run(overlay)
    before = life.held()
    assert "stands      yes" in life.program("status")
    life.flush()
    assert "overlay.overlay does not stand" in life.program("status")
    assert life.program("boot", "restore").startswith("0")
    assert life.held() == []
    life.node.run("ip", "link", "set", "eth0", "down")
    booting = life.node.start(PROGRAM, "boot", "overlay")
    if overlay == "routes":
        assert booting.poll() is None
    life.network.up("node1")
    assert booting.wait(60) == 0
    assert life.held() == before


def test_the_watch_brings_back_what_somebody_takes_away(life: Life) -> None:
    life.run("vxlan", service_proxy_reapply=True)
    before = life.held()
    assert life.program("boot", "watch") == "0\n"
    life.node.run("ip", "route", "del", "10.0.2.0/24")
    assert "overlay.overlay did not stand any more" in life.program("boot", "watch")
    assert life.held() == before


def test_a_boot_leaves_a_route_of_somebody_else_and_says_so(life: Life) -> None:
    life.run("routes")
    before = life.held()
    life.flush()
    life.node.run("ip", "route", "add", "10.0.2.0/24", "via", "192.0.2.9")
    told = life.program("boot", "reload")
    assert told == "1\noverlay.overlay: 10.0.2.0/24 via 192.0.2.2 dev eth0 proto 76: File exists\n"
    assert life.held() == [line for line in before if not line.startswith("10.0.2.0/24")]
    life.node.run("ip", "route", "del", "10.0.2.0/24")


def test_a_backend_that_no_way_leads_to_is_warned_of(life: Life) -> None:
    backends = [
        {"address": "10.66.0.1", "node": "node2"},
        {"address": "10.0.2.5", "node": "node2"},
        {"address": "192.0.2.2", "node": "node2"},
    ]
    services = [{"name": "web", "vip": "10.96.0.9", "port": 80, "backends": backends}]
    told = [
        line for line in warned(life.run("routes", check=True, service_proxy_services=services)) if "backend " in line
    ]
    assert told == [
        "backend 10.66.0.1 of node2 is in none of service_proxy_backend_cidrs of node2, so that the overlay does not lead there"
    ]
