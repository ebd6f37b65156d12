# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel that the other tests here rely on: IPVS for each namespace, its schedulers, dummy devices, SCTP, packets."""

from __future__ import annotations

import platform
import socket
import subprocess

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import SCHEDULERS
from lab.namespaces import Namespace, link
from lab.traffic import Servers, connect

VIP, PORT = "10.96.0.1", 80
BACKENDS = ("10.0.0.1", "10.0.0.2")
SINCE = {"twos": (6, 12)}  # Debian's kernels; the others have been there since 4.18 or longer
KERNEL = tuple(int(number) for number in platform.release().split(".")[:2])


def test_ipvs_is_there_for_every_namespace(node: Namespace) -> None:
    with Namespace(node.name + "-2") as other:
        node.run("ipvsadm", "-A", "-t", f"{VIP}:{PORT}", "-s", "rr")
        assert node.run("ipvsadm", "-Sn").stdout.strip() == f"-A -t {VIP}:{PORT} -s rr"
        assert other.run("ipvsadm", "-Sn").stdout == ""


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(node: Namespace, scheduler: str) -> None:
    added = node.run("ipvsadm", "-A", "-t", f"{VIP}:{PORT}", "-s", scheduler, check=False)
    assert (added.returncode == 0) == (SINCE.get(scheduler, (0, 0)) <= KERNEL), added.stderr


def test_dummy_devices(node: Namespace) -> None:
    node.ip("link", "add", "l4-ipvs0", "type", "dummy")
    node.ip("address", "add", f"{VIP}/32", "dev", "l4-ipvs0")
    assert VIP in node.ip("address", "show", "dev", "l4-ipvs0")


def test_sctp_sockets(node: Namespace) -> None:
    with node.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.bind(("127.0.0.1", PORT))
        listener.listen()


def test_round_robin_by_packets(node: Namespace) -> None:
    with Namespace(node.name + "-c") as client, Servers() as servers:
        link(client, "eth0", node, "eth0")
        client.add_address("eth0", "192.0.2.2/24")
        client.add_route("10.96.0.0/16", "via", "192.0.2.1")
        node.add_address("eth0", "192.0.2.1/24")
        node.add_address("lo", f"{VIP}/32", *(f"{address}/32" for address in BACKENDS))
        node.run("ipvsadm", "-A", "-t", f"{VIP}:{PORT}", "-s", "rr")
        for address in BACKENDS:
            servers.serve(node, address, address, PORT)
            node.run("ipvsadm", "-a", "-t", f"{VIP}:{PORT}", "-r", f"{address}:{PORT}", "-m")
        tally = connect(client, VIP, PORT, count=100)
    assert tally.answers == {(address, "192.0.2.2"): 50 for address in BACKENDS}, tally


def test_what_managed_hosts_have_is_not_what_the_tests_have() -> None:
    """A module that works here only because of the test's tools would be noticed."""
    assert (
        subprocess.run(["/usr/bin/python3", "-c", "import ansible"], check=False, capture_output=True).returncode == 1
    )
