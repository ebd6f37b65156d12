# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the checker does on nodes with iptables and with nftables, and what it may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Callable

import pytest

from places import BACKENDS, NODES, Place, machine

UNIT = "layer4-service-proxy-health.service"
VIP = "10.100.100.1"
ENOUGH = 40
PATIENCE = 90.0
"""Seconds; the watchdog takes twenty."""


def wait_for(told: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not told():
        assert time.monotonic() < end
        time.sleep(0.3)


def checker(node: str) -> int:
    """Its process."""
    return int(machine(node).check_output(f"systemctl show -p MainPID --value {UNIT}"))


def used(node: str) -> set[str]:
    return Place("client", node).backends(VIP, 80, ENOUGH)


@pytest.fixture(scope="module")
def stopped() -> Iterator[None]:
    """One backend is down, and every node has noticed."""
    machine("node1").check_output("systemctl stop web@web2")
    try:
        for node in NODES:
            wait_for(lambda: "10.10.1.12:8080 is out of web" in journal(node))  # noqa: B023
        yield
    finally:
        machine("node1").check_output("systemctl start web@web2")


def journal(node: str) -> str:
    return str(machine(node).check_output(f"journalctl --unit {UNIT} --output cat"))


@pytest.mark.parametrize("node", NODES)
def test_the_checker_runs_and_is_enabled(node: str) -> None:
    unit = machine(node).service(UNIT)
    verified = machine(node).run(f"systemd-analyze verify --man=no {UNIT}")
    assert (verified.rc, verified.stdout, verified.stderr) == (0, "", "")
    assert unit.is_running
    assert unit.is_enabled
    assert used(node) == set(BACKENDS)


@pytest.mark.parametrize("node", NODES)
def test_the_checker_is_confined(node: str) -> None:
    host, process = machine(node), checker(node)
    status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{process}/status").content_string.splitlines())
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << 12 | 1 << 13, "CAP_NET_ADMIN, CAP_NET_RAW"
    assert status["NoNewPrivs"] == "1"
    inside = f"nsenter --target {process} --mount"
    for path in ("/etc", "/usr/local/sbin", "/var/lib/layer4-service-proxy", "/run"):
        assert "Read-only file system" in host.run(f"{inside} touch {path}/l4-test").stderr, path
    assert host.check_output(f"ss --listening --no-header --processes | grep pid={process}, || true") == ""


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("node", NODES)
def test_a_backend_that_is_down_is_used_by_nobody_and_everybody_can_see_why(node: str) -> None:
    assert used(node) == {"web1", "web3"}
    status = machine(node).run("layer4-service-proxy status").stdout
    assert "tcp 10.10.1.12:8080: connection refused" in status
    assert "checks      active, 1 failed" in status


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("node", NODES)
def test_a_checker_that_is_killed_is_back_and_forgets_nothing(node: str) -> None:
    before = checker(node)
    machine(node).check_output(f"kill -KILL {before}")
    wait_for(lambda: checker(node) not in (0, before))
    wait_for(lambda: machine(node).service(UNIT).is_running)
    assert used(node) == {"web1", "web3"}
    assert "is back in web" not in journal(node)


@pytest.mark.usefixtures("stopped")
def test_a_checker_that_hangs_is_replaced() -> None:
    hung = {node: checker(node) for node in ("node1", "node2")}
    for node, process in hung.items():
        machine(node).check_output(f"kill -STOP {process}")
    for node, process in hung.items():
        wait_for(lambda: checker(node) not in (0, process))  # noqa: B023
        assert used(node) == {"web1", "web3"}


@pytest.mark.usefixtures("stopped")
def test_what_someone_flushes_comes_back_without_the_backend() -> None:
    machine("node2").check_output("nft flush ruleset && systemctl reload layer4-service-proxy")
    wait_for(lambda: set(Place("client", "node2").ask(VIP, 80, ENOUGH)) & {"refused"} == set())
    assert used("node2") == {"web1", "web3"}


@pytest.mark.parametrize("node", NODES)
def test_a_backend_that_is_up_again_is_used_again(node: str) -> None:
    machine("node1").check_output("systemctl start web@web2")
    machine("node1").check_output("systemctl start web@web2")
    wait_for(lambda: "10.10.1.12:8080 is back in web" in journal(node))
    assert used(node) == set(BACKENDS)
