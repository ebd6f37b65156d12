# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The places from which the scenarios on a virtual machine open connections, as `machine/inventory.yml` lays them out."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import executable

import testinfra
from testinfra.host import Host

from asking import Asking

NODE = "node1"
NODE_ADDRESSES = ("10.89.78.11", "fd00:89:78::11")
BRIDGE_ADDRESSES = ("10.0.0.1", "fd00:10::1")
BACKENDS = {
    "web1": ("10.0.0.11", "fd00:10::11"),
    "web2": ("10.0.0.21", "fd00:10::21"),
    "web3": ("10.89.78.21", "fd00:89:78::21"),
}
INSIDE = ("web1", "web2")
VIP = ("10.100.100.100", "fd00:100::100")
CLIENT = "10.89.78.100"
BED = f"l4-{os.environ.get('MOLECULE_SCENARIO_NAME', '')}"
RECORDS = Path(os.environ.get("MOLECULE_PROJECT_DIRECTORY", ""), ".cache", "vm", "running", BED)


def held() -> str:
    """What the client's open connection has got so far."""
    return (RECORDS / "held").read_text()


@lru_cache(maxsize=None)
def machine() -> Host:
    """The node."""
    way_in = json.loads((RECORDS / "ansible.json").read_text())
    return testinfra.get_host(
        f"ssh://{way_in['ansible_user']}@{way_in['ansible_host']}:{way_in['ansible_port']}",
        ssh_extra_args=way_in["ansible_ssh_common_args"],
        controlpath=f"/run/{BED}.ssh",
    )


@dataclass(frozen=True)
class Place(Asking):
    """The node, a backend behind its bridge, or a host on its LAN."""

    name: str

    def __str__(self) -> str:
        return self.name

    def traffic(self, *words: str) -> str:
        command = " ".join(words)
        if self.name == NODE:
            return str(machine().check_output(f"traffic {command}"))
        if self.name in INSIDE:
            return str(machine().check_output(f"ip netns exec {self.name} traffic {command}"))
        script = Path(__file__).parent / "files" / "traffic.py"
        return str(on_lan(self.name, f"{executable} {script} {command}"))


def on_lan(name: str, command: str) -> str:
    """The output of a command of a host on the LAN, which is a network namespace here."""
    return str(testinfra.get_host("local://").check_output(f"ip netns exec {BED}-{name} {command}"))


ON_BACKENDS = [Place(name) for name in BACKENDS]
EVERYWHERE = [Place(NODE), *ON_BACKENDS, Place("client")]
