# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scenario E as a user runs it: site.yml over SSH, on a machine with IPVS that shares a LAN with its backends and a client.

Each test goes on from where the one before has left the machine, as a node's life does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from worlds import differences

from lab.namespaces import Namespace
from lab.traffic import LongLivedConnection, Servers, connect
from lab.vm.bed import Bed
from playbooks import Controller, Run

VIP, PORT, OTHER_PORT = "10.100.100.100", 8080, 8081
BACKENDS = {"b1": "10.0.0.11", "b2": "10.0.0.21", "b3": "10.0.0.31"}
NODE_INSIDE, NODE_OUTSIDE, CLIENT = "10.0.0.1", "192.168.50.1", "192.168.50.2"
BACK_SECONDS = 5.0

# The network that the machine itself brings up, after a reboot too.
NETWORK = rf"""
printf '%s\n' '[Match]' Name=eth1 '[Network]' LinkLocalAddressing=no Address={NODE_INSIDE}/24 Address={NODE_OUTSIDE}/24 \
    > /etc/systemd/network/20-eth1.network
networkctl reload
/usr/lib/systemd/systemd-networkd-wait-online --interface=eth1 --timeout=60
"""
# What the roles may change; sysctls of ip_vs are not there before it is loaded, and iptables-nft keeps an empty table once it is there.
STATE = r"""
for tool in iptables-save ip6tables-save; do $tool | sed -n 's/ \[[0-9:]*\]$//; /^-A/p; /^:/{/ACCEPT$/!p}'; done
ipset list; ipvsadm -Sn
ip -o address | sed 's/valid_lft.*//'; ip -o link | awk '{print $2, $3}'
grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/all/route_localnet
find /etc -xdev -type f | sort | xargs -d '\n' md5sum
find /etc /usr/local /var/lib -xdev -maxdepth 4 | sort
"""
RULES = r"for tool in iptables-save ip6tables-save; do $tool | sed '/^#/d; s/ \[[0-9:]*\]$//'; done"


class Scenario:
    """The machine, what is around it, and the inventory as it is now."""

    def __init__(self, bed: Bed, controller: Controller, servers: Servers) -> None:
        self.bed, self.controller, self.servers = bed, controller, servers
        # Each alone on its link, so that answers to one another go through the node, as behind a bridge of its own.
        self.backends = {name: bed.plug_in(name, f"{address}/32") for name, address in BACKENDS.items()}
        self.client = bed.plug_in("client", f"{CLIENT}/24")
        self.client.add_route("10.100.100.0/24", "via", NODE_OUTSIDE)
        bed.run("sh", "-c", NETWORK)
        for name, backend in self.backends.items():
            backend.add_route("default", "via", NODE_INSIDE, "dev", "eth0", "onlink")
            for port in (PORT, OTHER_PORT):
                servers.serve(backend, name, BACKENDS[name], port, keep_open=True)
        self.services = [service("http", PORT, "rr", "b1", "b2")]

    def site(self, **how: Any) -> Run:
        self.bed.write_inventory(
            self.controller.directory,
            service_proxy_dataplane="ipvs",
            service_proxy_local_cidrs=["10.0.0.0/24"],
            service_proxy_services=self.services,
        )
        return self.controller.run(**how)

    def state(self) -> list[str]:
        return self.bed.run("sh", "-c", STATE).splitlines()

    def assert_serves(self) -> None:
        """From outside and from a backend, both backends answer."""
        for asking in (self.client, self.backends["b1"]):
            tally = connect(asking, VIP, PORT, count=50, timeout=5)
            assert tally.failed == 0
            assert set(tally.backends) >= {"b1", "b2"}


def service(name: str, port: int, scheduler: str, *backends: str) -> dict[str, Any]:
    members = [{"address": BACKENDS[backend], "port": port, "node": "node1"} for backend in backends]
    return {"name": name, "vip": VIP, "port": port, "scheduler": scheduler, "backends": members}


@pytest.fixture(scope="module")
def scenario(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    with Servers() as servers:
        yield Scenario(bed, Controller(tmp_path_factory.mktemp("controller")), servers)


@pytest.fixture(scope="module")
def found(scenario: Scenario) -> list[str]:
    """The machine before the first run."""
    return scenario.state()


def test_the_run_is_foretold_and_once_is_enough(scenario: Scenario, found: list[str]) -> None:
    check = scenario.site(check=True)
    assert differences(scenario.state(), found) == []
    first = scenario.site()
    assert first.changes
    assert foretold(check) == foretold(first)
    assert scenario.site().changed == 0


def foretold(run: Run) -> list[tuple[str, str, str]]:
    """The changes of a run, with what they lead to."""
    return [(task, host, after(diff)) for task, host, diff in run.changes]


def after(diff: Any) -> str:
    parts = diff if isinstance(diff, list) else [diff or {}]
    return "".join(str(part.get("after", "")) for part in parts)


def test_round_robin_is_exact_and_backends_see_the_node(scenario: Scenario) -> None:
    tally = connect(scenario.client, VIP, PORT, count=1000, timeout=10)
    assert tally.answers == {("b1", NODE_INSIDE): 500, ("b2", NODE_INSIDE): 500}, tally


def test_the_node_and_the_backends_themselves_reach_it(scenario: Scenario) -> None:
    asked = scenario.bed.run("python3", "-c", ASK_FOUR_TIMES)
    assert sorted(asked.split()) == ["b1", "b1", "b2", "b2"]
    for name in ("b1", "b2"):
        tally = connect(scenario.backends[name], VIP, PORT, count=10, timeout=5)
        other = "b2" if name == "b1" else "b1"
        assert tally.answers == {(other, BACKENDS[name]): 5, (name, NODE_INSIDE): 5}, tally


ASK_FOUR_TIMES = f"""
import socket
for _ in range(4):
    with socket.create_connection(("{VIP}", {PORT}), 5) as stream:
        print(stream.makefile().readline().split()[0])
"""


def test_more_services_and_backends_are_no_more_rules_and_open_connections_go_on(scenario: Scenario) -> None:
    before = scenario.bed.run("sh", "-c", RULES)
    with LongLivedConnection(scenario.client, VIP, PORT) as connection:
        first = connection.ask()
        scenario.services = [
            service("http", PORT, "rr", "b1", "b2", "b3"),
            service("sticky", OTHER_PORT, "sh", "b1", "b2", "b3"),
        ]
        scenario.site()
        assert connection.ask() == first
    assert scenario.bed.run("sh", "-c", RULES) == before
    assert connect(scenario.client, VIP, PORT, count=30, timeout=5).backends == {"b1": 10, "b2": 10, "b3": 10}
    assert len(connect(scenario.client, VIP, OTHER_PORT, count=30, timeout=5).backends) == 1


def test_after_a_reboot_it_serves_without_ansible(scenario: Scenario) -> None:
    before = scenario.bed.run("ipvsadm", "-Sn")
    scenario.bed.machine.reboot()
    answered = _wait_for_the_node(scenario.client)
    while connect(scenario.client, VIP, PORT, timeout=1).failed:
        assert time.monotonic() < answered + BACK_SECONDS, scenario.bed.run("journalctl", "-b", "-u", "layer4*")
    assert scenario.bed.run("ipvsadm", "-Sn") == before
    scenario.assert_serves()


def _wait_for_the_node(client: Namespace) -> float:
    while client.run("ping", "-c", "1", "-W", "1", NODE_OUTSIDE, check=False).returncode:
        pass
    return time.monotonic()


def test_when_it_goes_the_machine_is_as_it_was_found(scenario: Scenario, found: list[str]) -> None:
    scenario.site(service_proxy_state="absent")
    left = differences(scenario.state(), found)
    assert not left, "\n".join(left)
