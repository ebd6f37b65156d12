# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scenario E over SSH, on a machine with IPVS that shares a LAN with its backends and a client: what a check predicts, and what is
left behind. Molecule's scenarios `ipvs` and `reboot` prove the rest.

Each test goes on from where the one before has left the machine, as a node's life does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from worlds import differences

from lab.traffic import Servers, connect
from lab.vm.bed import Bed
from playbooks import Controller, Run

VIP, PORT = "10.100.100.100", 8080
BACKENDS = {"b1": "10.0.0.11", "b2": "10.0.0.21"}
NODE_INSIDE, NODE_OUTSIDE, CLIENT = "10.0.0.1", "192.168.50.1", "192.168.50.2"

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
HTTP = {
    "name": "http",
    "vip": VIP,
    "port": PORT,
    "scheduler": "rr",
    "backends": [{"address": address, "node": "node1"} for address in BACKENDS.values()],
}


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
            servers.serve(backend, name, BACKENDS[name], PORT)

    def site(self, **how: Any) -> Run:
        self.bed.write_inventory(
            self.controller.directory,
            service_proxy_dataplane="ipvs",
            service_proxy_local_cidrs=["10.0.0.0/24"],
            service_proxy_services=[HTTP],
        )
        return self.controller.run(**how)

    def state(self) -> list[str]:
        return self.bed.run("sh", "-c", STATE).splitlines()


@pytest.fixture(scope="module")
def scenario(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    with Servers() as servers:
        yield Scenario(bed, Controller(tmp_path_factory.mktemp("controller")), servers)


@pytest.fixture(scope="module")
def found(scenario: Scenario) -> list[str]:
    """The machine before the first run."""
    return scenario.state()


def test_the_run_is_predicted_and_once_is_enough(scenario: Scenario, found: list[str]) -> None:
    check = scenario.site(check=True)
    assert differences(scenario.state(), found) == []
    first = scenario.site()
    assert first.changes
    assert predicted(check) == predicted(first)
    assert scenario.site().changed == 0


def predicted(run: Run) -> list[tuple[str, str, str]]:
    """The changes of a run, with what they lead to."""
    return [(task, host, after(diff)) for task, host, diff in run.changes]


def after(diff: Any) -> str:
    parts = diff if isinstance(diff, list) else [diff or {}]
    return "".join(str(part.get("after", "")) for part in parts)


def test_round_robin_is_exact_and_backends_see_the_node(scenario: Scenario) -> None:
    tally = connect(scenario.client, VIP, PORT, count=1000, timeout=10)
    assert tally.answers == {("b1", NODE_INSIDE): 500, ("b2", NODE_INSIDE): 500}, tally


def test_when_it_goes_the_machine_is_as_it_was_found(scenario: Scenario, found: list[str]) -> None:
    scenario.site(service_proxy_state="absent")
    left = differences(scenario.state(), found)
    assert not left, "\n".join(left)
