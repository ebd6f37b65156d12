# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a flip of a health check does with IPVS, which reads the services that use the backend and no others: beside other programs and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from checked import Checked
from network import ADDRESSES, IPV4, IPV6, Network, backends, vip

from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.services import Services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.health_record import (
    forget_failed,
    write_failed,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs import observe
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.named import observe_named
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.checks import Probe
from lab.namespaces import Namespace

CHECK = {"health_check": {"interval": 1}}
FAILS, STAYS = ADDRESSES["b11"][IPV4], ADDRESSES["b12"][IPV4]


def _services(count: int = 3) -> list[dict[str, Any]]:
    """Every third is over UDP; all have both backends, and one of IPv6."""
    both = backends("b11", "b12") + backends("b11", family=IPV6)
    return [
        {
            "name": f"s{number}",
            "vip": [vip(number, IPV4), vip(number, IPV6)],
            "port": 80,
            "protocol": "udp" if number % 3 == 0 else "tcp",
            "backends": both,
            **CHECK,
        }
        for number in range(1, count + 1)
    ]


class Node:
    """node1, and what its checker does about what it has found."""

    def __init__(self, network: Network, directory: Path, services: Sequence[Mapping[str, Any]]) -> None:
        self.network, self.host, self._services = network, network.hosts["node1"], services
        self.directory = directory
        network.applied(services)
        Checked(network, directory).give(services)

    def flip(self, *addresses: str, only: bool = True) -> None:
        """Have the kernel follow: checks of these addresses have failed, all others pass. only: whether nothing else may be read."""
        self.host.call(self._flip, addresses, only)

    def _flip(self, addresses: Sequence[str], only: bool) -> None:
        own = Services(self.directory)
        own.load()
        failed = {one: "timed out" for one in own.probes if one.address in addresses}
        write_failed(failed)
        changed: list[Probe] = [one for one in own.probes if one.address in (FAILS, *addresses)]
        looked: list[bool] = []

        def noted(*given: Any) -> Any:
            found = observe_named(*given)
            looked.append(found is not None)
            return found

        with patch.object(observe, "observe_named", noted):
            assert own.converge(own.users(changed), failed)
        assert looked == [only]

    def weights(self, number: int) -> dict[str, int]:
        """Of a service's destinations over IPv4."""
        held = self.host.run("ipvsadm", "-Sn").stdout.splitlines()
        lines = [line.split() for line in held if line.startswith("-a") and f" {vip(number, IPV4)}:80 " in line]
        return {words[4].rpartition(":")[0]: int(words[7]) for words in lines}

    def held(self) -> list[str]:
        """Virtual services and sets."""
        lines = self.host.run("ipvsadm", "-Sn").stdout.splitlines() + self.host.run("ipset", "save").stdout.splitlines()
        return sorted(line.split(" hashsize")[0] for line in lines)


@pytest.fixture
def services() -> list[dict[str, Any]]:
    return _services()


@contextmanager
def _node(network: Network, directory: Path, services: Sequence[Mapping[str, Any]]) -> Iterator[Node]:
    try:
        yield Node(network, directory, services)
    finally:
        network.hosts["node1"].call(forget_failed)
        network.applied([], state="absent")
        network.hosts["node1"].run("ipvsadm", "-C")


OUT, IN = {FAILS: 0, STAYS: 1}, {FAILS: 1, STAYS: 1}


def test_a_backend_of_many_services_is_out_of_all_and_back(network: Network, tmp_path: Path) -> None:
    count = 45
    with _node(network, tmp_path / "kept", _services(count)) as node:
        good = node.held()
        node.flip(FAILS)
        for number in range(1, count + 1):
            assert node.weights(number) == ({STAYS: 1} if number % 3 == 0 else OUT)
        assert not network.applied(_services(count))["changed"]
        node.flip()
        assert node.held() == good
        assert not network.applied(_services(count))["changed"]


def test_a_backend_of_udp_keeps_its_entry_as_long_as_one_service_has_it(network: Network, tmp_path: Path) -> None:
    """Half of the services have no checks."""
    services = [{**one, "protocol": "udp"} for one in _services(50)]
    for one in services[25:]:
        del one["health_check"]
    with _node(network, tmp_path / "kept", services) as node:
        good = node.held()
        node.flip(FAILS)
        assert (node.weights(1), node.weights(26)) == ({STAYS: 1}, IN)
        assert not network.applied(services)["changed"]
        node.flip()
        assert node.held() == good


def test_drained_stays_drained(network: Network, tmp_path: Path, services: list[dict[str, Any]]) -> None:
    both = backends("b11", weight=0) + backends("b12")
    services[0] = {**services[0], "backends": both}
    with _node(network, tmp_path / "kept", services) as node:
        for fails in ((FAILS,), (), (FAILS, STAYS), ()):
            node.flip(*fails)
            assert node.weights(1) == ({**OUT, STAYS: 1} if STAYS not in fails else OUT)
        assert (node.weights(1), node.weights(2)) == (OUT, IN)


def _by_hand(host: Namespace, *lines: str) -> None:
    for line in lines:
        host.run("ipvsadm", *line.split())


def test_beside_changes_by_hand(network: Network, tmp_path: Path, services: list[dict[str, Any]]) -> None:
    """Those of the same service are mended, those of others left to a run of all; what is somebody else's stays."""
    one, two = vip(1, IPV4), vip(2, IPV4)
    services[1] = {key: value for key, value in services[1].items() if key != "health_check"}
    with _node(network, tmp_path / "kept", services) as node:
        port = services[0]["backends"][0]["port"]
        _by_hand(node.host, "-A -t 192.0.2.1:9 -s rr", f"-a -t 192.0.2.1:9 -r {FAILS}:{port} -m -w 5")
        _by_hand(node.host, f"-e -t {one}:80 -r {STAYS}:{port} -m -w 9", f"-d -t {one}:80 -r {FAILS}:{port}")
        _by_hand(node.host, f"-e -t {two}:80 -r {STAYS}:{port} -m -w 7")
        node.flip(FAILS)
        assert (node.weights(1), node.weights(2)) == (OUT, {FAILS: 1, STAYS: 7})
        _by_hand(node.host, f"-D -t {one}:80")
        node.flip()
        assert (node.weights(1), node.weights(2)) == (IN, {FAILS: 1, STAYS: 7})
        assert f"-a -t 192.0.2.1:9 -r {FAILS}:{port} -m -w 5" in node.held()
        assert network.applied(services)["updated"] == ["s2"]
        assert node.weights(2) == IN


def test_beside_a_run_that_converged_in_between(
    network: Network, tmp_path: Path, services: list[dict[str, Any]]
) -> None:
    """It has moved a service, so that all is read, and removed another, which the node is still given; and what it left is no excuse."""
    with _node(network, tmp_path / "kept", services) as node:
        good = node.held()
        network.applied([{**services[0], "scheduler": "rr", "backends": backends("b12", weight=3)}], exclusive=False)
        node.flip(FAILS)
        assert node.weights(1) == OUT
        network.applied([{**services[0], "vip": vip(9, IPV4)}], exclusive=False)
        network.applied([services[1]], exclusive=False, state="absent")
        node.flip(FAILS, only=False)
        assert (node.weights(1), node.weights(2), node.weights(9)) == (OUT, OUT, {})
        node.flip()
        assert node.held() == good
        assert not network.applied(services)["changed"]


def test_a_conflict_is_refused(network: Network, tmp_path: Path, services: list[dict[str, Any]]) -> None:
    with _node(network, tmp_path / "kept", services) as node:
        before = node.held()
        for family in (IPV4, IPV6):
            at = {"address": vip(2, family), "port": 80}
            refused = network.apply([{**services[0], "backends": [at]}], exclusive=False)
            assert refused["failed"]
            assert 'which is vip of service "s2"' in refused["msg"]
        assert node.held() == before


def test_one_service_of_many_is_changed_by_a_module_as_predicted(network: Network, tmp_path: Path) -> None:
    with _node(network, tmp_path / "kept", _services(30)) as node:
        changed = {**_services(30)[8], "backends": backends("b12", weight=4)}
        predicted = network.apply([changed], exclusive=False, check=True)
        assert node.weights(9) == IN
        made = network.applied([changed], exclusive=False)
        assert (made["diff"], made["updated"]) == (predicted["diff"], ["s9"])
        assert node.weights(9) == {STAYS: 4}
        assert not network.applied([changed], exclusive=False)["changed"]
        assert network.applied(_services(30))["updated"] == ["s9"]
