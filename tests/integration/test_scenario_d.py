# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scenario D: ports published for containers, and a virtual service over them, on a node that seems to have systemd."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import Converged, World

from lab.shares import share_test
from lab.traffic import connect
from playbooks import Controller

CONTAINERS = {"c1": "172.18.0.2", "c2": "172.18.0.3"}
BRIDGE, NODE, CLIENT, VIP = "172.18.0.1", "192.168.60.1", "192.168.60.2", "172.18.1.1"
PUBLISHED = {8081: "c1", 8082: "c2"}
CONNECTIONS = 10_000
P_VALUE = 1e-6


# Of systemd only what says that it runs, and which units have been started.
SYSTEMCTL = r"""#!/bin/sh
for last; do :; done
case "$1" in
    start) touch "/run/started-$last" ;;
    stop) rm -f "/run/started-$last" ;;
    is-active) shift; for one; do if [ -e "/run/started-$one" ]; then echo active; else echo inactive; fi; done ;;
esac
"""


class ScenarioD(World):
    """A directory under /run and a tool of that name are all that there is of systemd: what it would do at boot is done by the tests."""

    def build(self) -> None:
        self.node.run("mkdir", "-p", "/run/systemd/system")
        self.node.run("tee", "/usr/bin/systemctl", input=SYSTEMCTL)
        self.containers = self.bridge("cont-br0", BRIDGE, CONTAINERS)
        self.client = self.outside(CLIENT, NODE, f"{VIP}/32")
        for name, address in CONTAINERS.items():
            self.servers.serve(self.containers[name], name, address, 8000)
        published = [
            {"name": name, "port": 8000, "node_port": port, "backends": [{"address": CONTAINERS[name]}]}
            for port, name in PUBLISHED.items()
        ]
        both = [{"address": address, "port": 8000} for address in CONTAINERS.values()]
        self.variables = {
            "service_proxy_local_cidrs": ["172.18.0.0/24"],
            "service_proxy_bridges": [{"name": "cont-br0"}],
            "service_proxy_localhost_node_ports": True,
            "service_proxy_masquerade_mark": "0x200/0x200",
            "service_proxy_services": [*published, {"name": "svc", "vip": VIP, "port": 8083, "backends": both}],
        }

    def rules(self) -> str:
        """Our rules and the jumps to them."""
        text = "".join(self.node.run(tool).stdout for tool in ("iptables-save", "ip6tables-save"))
        return "\n".join(re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines() if "L4" in line)

    def sysctls(self) -> dict[str, str]:
        names = ("ipv4.ip_forward", "ipv4.conf.all.route_localnet", "bridge.bridge-nf-call-iptables")
        return {f"net.{name}": self.node.sysctl(f"net.{name}") for name in names}


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    with ScenarioD() as world:
        yield Converged(world, Controller(tmp_path_factory.mktemp("controller")))


@pytest.fixture
def world(converged: Converged) -> ScenarioD:
    assert isinstance(converged.world, ScenarioD)
    return converged.world


def assert_published(world: ScenarioD) -> None:
    for port, name in PUBLISHED.items():
        for who, address in ((world.client, NODE), (world.node, NODE), (world.node, "127.0.0.1")):
            assert connect(who, address, port, count=20).answers == {(name, BRIDGE): 20}


def test_the_run_is_predicted_and_once_is_enough(converged: Converged) -> None:
    converged.assert_as_promised()


def test_what_the_run_itself_sets_later_is_not_warned_of(converged: Converged) -> None:
    told = [
        str(result.get("warnings"))
        for run in (converged.check, converged.first)
        for _task, _host, result in run.results
    ]
    assert told
    assert not [text for text in told if "route_localnet" in text]


def test_published_ports_lead_to_their_container(world: ScenarioD) -> None:
    assert_published(world)


def test_no_process_listens_on_a_published_port(world: ScenarioD) -> None:
    assert not re.search(r":808[12]\b", world.node.run("ss", "-Hltn").stdout)


def test_the_virtual_service_is_over_both_containers_at_random(world: ScenarioD) -> None:
    tally = connect(world.client, VIP, 8083, count=CONNECTIONS)
    assert tally.failed == 0
    assert share_test(tally.backends, {"c1": 1, "c2": 1}) > P_VALUE
    for container in world.containers.values():
        assert connect(container, VIP, 8083, count=50).failed == 0


def test_the_mark_and_the_random_source_port_are_as_asked(world: ScenarioD) -> None:
    rules = world.node.run("iptables-save", "-t", "nat").stdout
    assert "--set-xmark 0x200/0x200" in rules
    assert re.search(r"-A L4-POSTROUTING .*-j MASQUERADE --random-fully", rules)


def test_sysctls_and_rules_survive_a_reboot(world: ScenarioD) -> None:
    held, others, sysctls = world.rules(), world.rules_of_others(), world.sysctls()
    for tool in ("iptables", "ip6tables"):
        for table in ("nat", "filter"):
            world.node.run(tool, "-t", table, "-F")
            world.node.run(tool, "-t", table, "-X")
    for name in sysctls:
        world.node.sysctl(name, 0)
    assert connect(world.client, VIP, 8083, timeout=0.5).answered == 0

    world.set_rules_of_others()
    world.node.run("sysctl", "--system")
    unit = world.node.run("cat", "/etc/systemd/system/multi-user.target.wants/layer4-service-proxy.service").stdout
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command is not None
    for _boot_and_restart in range(2):
        world.node.run(*shlex.split(command.group(1)))
        assert world.rules() == held
    assert world.rules_of_others() == others
    assert world.sysctls() == sysctls
    assert_published(world)


@pytest.mark.parametrize("unit", ["layer4-service-proxy.service", "layer4-service-proxy-hairpin.service"])
def test_units_are_what_systemd_reads(world: ScenarioD, tmp_path: Path, unit: str) -> None:
    text = world.node.run("cat", f"/etc/systemd/system/{unit}").stdout
    (tmp_path / unit).write_text(text.replace("/usr/local/sbin/layer4-service-proxy ", "/bin/true "))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_when_it_goes_the_node_is_as_it_was_found(converged: Converged) -> None:
    converged.assert_leaves_nothing()
