# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to a virtual machine by SSH, the LAN that it shares with namespaces, and what a reboot leaves of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespaces import Namespace
from lab.traffic import Servers, connect
from lab.vm.bed import Bed
from playbooks import Controller

VIP, PORT = "10.96.0.1", 80
CLIENT, NODE = "192.0.2.100", "192.0.2.1"
BACKENDS = {"b1": "192.0.2.11", "b2": "192.0.2.12"}


@pytest.fixture(scope="module")
def client(bed: Bed) -> Iterator[Namespace]:
    with Servers() as servers:
        for name, address in BACKENDS.items():
            servers.serve(bed.plug_in(name, address + "/24"), name, address, PORT)
        host = bed.plug_in("client", CLIENT + "/24")
        host.add_route("10.96.0.0/16", "via", NODE)
        yield host


def test_the_machine_is_one_of_its_own(bed: Bed) -> None:
    assert bed.run("hostname").strip() == bed.machine.name
    assert abs(float(bed.run("date", "+%s")) - float(bed.lan.run("date", "+%s").stdout)) < 5


def test_playbooks_reach_it(controller: Controller) -> None:
    play = controller.play([{"ansible.builtin.ping": {}}, {"ansible.builtin.command": {"cmd": "uname -r"}}])
    assert controller.run(play).returncode == 0


def test_clients_and_backends_share_a_lan_with_it(bed: Bed, client: Namespace) -> None:
    for line in (
        f"ip address add {NODE}/24 dev eth1",
        "ip link set eth1 up",
        f"ip address add {VIP}/32 dev lo",
        "sysctl -q net.ipv4.ip_forward=1",
        f"ipvsadm -A -t {VIP}:{PORT} -s rr",
        *(f"ipvsadm -a -t {VIP}:{PORT} -r {address} -m" for address in BACKENDS.values()),
        "sysctl -q net.ipv4.vs.conntrack=1",
        "iptables -t nat -A POSTROUTING -s 192.0.2.100 -d 192.0.2.8/29 -j MASQUERADE",
    ):
        bed.run(*line.split())
    tally = connect(client, VIP, PORT, count=100, timeout=5)
    assert tally.answers == {(name, NODE): 50 for name in BACKENDS}, tally


def test_a_reboot_leaves_what_is_on_the_disk_and_nothing_else(bed: Bed, client: Namespace) -> None:
    before = bed.run("cat", "/sys/class/net/eth1/address")
    assert "10.96.0.1:80" in bed.run("ipvsadm", "-Sn")
    bed.machine.reboot()
    assert bed.run("hostname").strip() == bed.machine.name
    assert bed.run("cat", "/sys/class/net/eth1/address") == before
    assert bed.run("ipvsadm", "-Sn") == ""
    assert not connect(client, VIP, PORT, timeout=1).answers
