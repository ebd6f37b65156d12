# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine whose eth1 is on a LAN with network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab.namespaces import Namespace, link

from .lan import cable
from .machine import Machine
from .snapshot import restored

BRIDGE = "lan"
HOST_NAME = "node1"


@dataclass
class Bed:
    """lan: a namespace that holds the bridge. hosts: what has been plugged into it."""

    machine: Machine
    lan: Namespace
    stack: ExitStack
    hosts: dict[str, Namespace] = field(default_factory=dict)

    def plug_in(self, name: str, *addresses: str) -> Namespace:
        """A namespace on the LAN, with these addresses (with prefix length) on its eth0."""
        host = self.stack.enter_context(Namespace(f"{self.lan.name}-{name}"))
        link(host, "eth0", self.lan, name)
        self.lan.add_ports(BRIDGE, name)
        host.add_address("eth0", *addresses)
        self.hosts[name] = host
        return host

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on the machine; its standard output."""
        return self.machine.ssh.run(*argv, check=check).stdout

    def write_inventory(self, directory: Path, **variables: Any) -> None:
        """hosts.yml: the machine is node1 of the group service_proxy, whose variables these are."""
        group = {"hosts": {HOST_NAME: dict(self.machine.ssh.inventory())}, "vars": variables}
        (directory / "hosts.yml").write_text(yaml.safe_dump({"service_proxy": group}))


@contextmanager
def bed_for(prefix: str) -> Iterator[Bed]:
    """A bed whose namespaces' names begin with `prefix`; all of it is gone after the block."""
    with ExitStack() as stack:
        lan = stack.enter_context(Namespace(prefix))
        lan.add_bridge(BRIDGE)
        descriptor = stack.enter_context(cable(lan, BRIDGE, HOST_NAME))
        machine = stack.enter_context(restored(HOST_NAME, lan=descriptor))
        yield Bed(machine, lan, stack)
