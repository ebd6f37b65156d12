# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client behind the router of the scenario `announce`, and what happens to nodes meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import testinfra

from asking import Asking
from places import machine

PATIENCE = 60.0
"""Seconds."""


class Outside(Asking):
    """The client."""

    def traffic(self, *words: str) -> str:
        return str(machine("client").check_output(f"ip netns exec outside traffic {' '.join(words)}"))


class Stream:
    """New connections of the client, one each 10 ms while this lasts: when each began, and whether it was answered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._unit = f"stream-ipv{6 if ':' in address else 4}"

    def __enter__(self) -> Stream:
        into = f"--unit={self._unit} --property=StandardOutput=truncate:/run/{self._unit}"
        command = f"ip netns exec outside traffic stream {self._address} 80"
        machine("client").check_output(f"systemd-run --quiet --collect {into} {command}")
        self.wait_for_answers()
        return self

    def __exit__(self, *dummy: object) -> None:
        machine("client").check_output(f"systemctl stop {self._unit}")

    @property
    def attempts(self) -> list[tuple[float, bool]]:
        lines = machine("client").file(f"/run/{self._unit}").content_string.splitlines()
        return [(float(words[0]), len(words) > 2) for words in map(str.split, lines)]

    def wait_for_answers(self, count: int = 100) -> float:
        """Wait until so many are answered of those that begin from now on; return when that was, as they tell it."""
        since = time.monotonic()
        wait_for(lambda: sum(answered for at, answered in self.attempts if at > since) >= count)
        return since

    @property
    def failed(self) -> list[float]:
        """When those began that were not answered."""
        return sorted(at for at, answered in self.attempts if not answered)

    def tell(self, what: str) -> None:
        """Print how long there was no answer."""
        outage = self.failed[-1] - self.failed[0] if self.failed else 0
        print(f"{what}: {len(self.failed)} connections were not answered, for {outage:.2f} seconds")


def wait_for(told: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not told():
        assert time.monotonic() < end
        time.sleep(0.2)


def on_controller(command: str) -> str:
    return str(testinfra.get_host("local://").check_output(command))


def play(name: str, options: str) -> str:
    """The output of a playbook of the collection, with the scenario's inventory."""
    project = os.environ["MOLECULE_PROJECT_DIRECTORY"]
    inventories = [f"{project}/molecule/shared", os.environ["MOLECULE_SCENARIO_DIRECTORY"]]
    given = " ".join(f"--inventory={directory}/inventory.yml" for directory in inventories)
    return on_controller(f"ansible-playbook {given} {options} layer4.service_proxy.{name}")


def kill(node: str) -> None:
    """As a loss of power does; the kernel of a container goes on for a while, so that its network goes first."""
    machine(node).check_output("ip link set eth0 down")
    on_controller(f"podman kill l4-{node}")


def boot(node: str) -> None:
    on_controller(f"podman start l4-{node}")
    wait_for(lambda: machine(node).run("systemctl is-system-running").stdout.strip() == "running")


def stamp(node: str, unit: str) -> str:
    """Another value whenever a unit has been started, stopped or reloaded."""
    return str(machine(node).check_output(f"systemctl show --property=StateChangeTimestampMonotonic {unit}"))
