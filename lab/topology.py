# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the lab's inventory says: machines, addresses, routes, and the services as a reader understands them.

Nothing of the collection or of Ansible is used to read it, so that what is expected of the collection does not come
from the collection.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import yaml
from jinja2.nativetypes import NativeEnvironment

PREFIX = "l4lab"
INVENTORY = Path(__file__).parent / "inventory"
PREFIX_LENGTHS = {4: 24, 6: 64}


def with_prefix(address: str) -> str:
    """The address with the length of the lab's networks."""
    return f"{address}/{PREFIX_LENGTHS[ip_interface(address).version]}"


def network_of(address: str) -> str:
    return str(ip_interface(with_prefix(address)).network)


@dataclass(frozen=True)
class Machine:
    """`node` is where a backend runs; the bridge is a node's own; routes are networks by the node they go through."""

    name: str
    addresses: tuple[str, ...]
    bridge: tuple[str, ...] = ()
    node: str = ""
    routes: dict[str, str] = field(default_factory=dict)

    def address(self, version: int) -> str:
        return _of_version(self.addresses, version)

    def bridge_address(self, version: int) -> str:
        return _of_version(self.bridge, version)


def _of_version(addresses: tuple[str, ...], version: int) -> str:
    return next(address for address in addresses if ip_interface(address).version == version)


@dataclass(frozen=True)
class Topology:
    prefix: str
    nodes: dict[str, Machine]
    backends: dict[str, Machine]
    client: Machine
    local_cidrs: list[str]
    services: list[dict[str, Any]]

    @property
    def machines(self) -> dict[str, Machine]:
        return {**self.nodes, **self.backends, self.client.name: self.client}

    def backend_at(self, address: str) -> Machine:
        return next(backend for backend in self.backends.values() if address in backend.addresses)

    def namespace_name(self, machine: str) -> str:
        return f"{self.prefix}-{machine}"


def load(inventory: Path = INVENTORY) -> Topology:
    """Read a directory with hosts.yml and group_vars; KeyError or StopIteration when it is not a lab."""
    groups = _read(inventory / "hosts.yml")["all"]["children"]
    hostvars = {name: values for group in groups.values() for name, values in group["hosts"].items()}
    members = {name: list(group["hosts"]) for name, group in groups.items()}
    settings = _read(inventory / "group_vars" / "service_proxy.yml")
    nodes = [_node(name, hostvars[name]) for name in members["service_proxy"]]
    backends = [_backend(name, values) for name, values in hostvars.items() if "web_node" in values]
    (client,) = (_client(name, hostvars[name]) for name in members["outside"])
    return Topology(
        prefix=_read(inventory / "group_vars" / "all.yml")["lab_prefix"],
        nodes={node.name: node for node in nodes},
        backends={backend.name: backend for backend in backends},
        client=client,
        local_cidrs=settings["service_proxy_local_cidrs"],
        services=_resolve(settings["service_proxy_services"], members, hostvars),
    )


def copy_inventory(target: Path, prefix: str) -> Path:
    """A copy of the lab's inventory to edit, for a lab of its own."""
    shutil.copytree(INVENTORY, target)
    for path in (target / "hosts.yml", target / "group_vars" / "all.yml"):
        path.write_text(path.read_text().replace(PREFIX, prefix))
    return target


def edit(path: Path, old: str, new: str) -> None:
    """Replace one passage of a file; ValueError when it is not there exactly once."""
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{path} does not contain {old!r} once")
    path.write_text(text.replace(old, new))


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _node(name: str, values: dict[str, Any]) -> Machine:
    return Machine(name, tuple(values["lan_addresses"]), bridge=tuple(values["bridge_addresses"]))


def _backend(name: str, values: dict[str, Any]) -> Machine:
    return Machine(name, tuple(values["web_addresses"]), node=values["web_node"])


def _client(name: str, values: dict[str, Any]) -> Machine:
    return Machine(name, tuple(values["lan_addresses"]), routes=values["routes"])


def _resolve(services: list[dict[str, Any]], groups: dict[str, list[str]], hostvars: dict[str, Any]) -> Any:
    """The services with their expressions evaluated, the filter `backends` by its documented meaning."""

    def backends(hosts: list[str], hostvars: dict[str, Any], port: int, address: str, node: str) -> list[Any]:
        return [
            {"address": one, "port": port, "node": hostvars[host][node]}
            for host in hosts
            for one in hostvars[host][address]
        ]

    environment = NativeEnvironment()
    environment.filters["layer4.service_proxy.backends"] = backends

    def evaluate(value: Any) -> Any:
        if isinstance(value, str) and "{{" in value:
            return environment.from_string(value).render(groups=groups, hostvars=hostvars)
        return value

    return [{key: evaluate(value) for key, value in service.items()} for service in services]
