# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who can ask for which service in the lab, and what each must experience; from the inventory alone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from .shares import share_test

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .topology import Machine, Topology
    from .traffic import Tally

# One honest run in a million is called uneven; a demonstration asks for some thirty shares.
DOUBT = 1e-6


@dataclass(frozen=True)
class Question:
    """`asker` connects to a service at one of its addresses; `node` is the one that chooses the backend."""

    service: str
    entry: str
    asker: str
    node: str
    address: str
    port: int
    protocol: str

    @property
    def version(self) -> int:
        return ip_address(self.address).version


@dataclass(frozen=True)
class Expectation:
    """By backend: the weight, and the source address that it must see. Without backends the answer is a refusal."""

    weights: dict[str, float]
    sources: dict[str, str]


def questions(topology: Topology) -> list[Question]:
    """Every way into every service: from outside, from each node, from a backend of each node."""
    return [question for service in topology.services for question in _of_service(topology, service)]


def _of_service(topology: Topology, service: dict[str, Any]) -> Iterator[Question]:
    protocol = service.get("protocol", "tcp")
    for address in _listed(service["vip"]):
        for asker, node in _insiders(topology):
            yield Question(service["name"], "VIP", asker, node, address, service["port"], protocol)
        node = _route(topology, address)
        yield Question(service["name"], "VIP", topology.client.name, node, address, service["port"], protocol)
    for address in _listed(service.get("external_ips", [])):
        node = _route(topology, address)
        yield Question(service["name"], "external", topology.client.name, node, address, service["port"], protocol)
    if service.get("node_port"):
        for machine in topology.nodes.values():
            for address in machine.addresses:
                for asker in (topology.client.name, machine.name):
                    yield Question(
                        *(service["name"], "node port", asker, machine.name, address, service["node_port"], protocol)
                    )


def _insiders(topology: Topology) -> Iterator[tuple[str, str]]:
    """Each node and its first backend, with the node that both go through."""
    for node in topology.nodes:
        yield node, node
        hosted = [backend.name for backend in topology.backends.values() if backend.node == node]
        yield hosted[0], node


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _route(topology: Topology, address: str) -> str:
    """The node through which the client reaches this address."""
    routes = topology.client.routes.items()
    return next(node for network, node in routes if ip_address(address) in ip_network(network))


def expect(topology: Topology, question: Question) -> Expectation:
    """What the inventory promises to this asker: shares by weight, in the question's address family."""
    (service,) = (service for service in topology.services if service["name"] == question.service)
    weights: dict[str, float] = {}
    for backend in service["backends"]:
        if ip_address(backend["address"]).version == question.version:
            weights[topology.backend_at(backend["address"]).name] = backend.get("weight", 1)
    return Expectation(weights, {name: _source(topology, question, topology.backends[name]) for name in weights})


def _source(topology: Topology, question: Question, backend: Machine) -> str:
    """A local source keeps its address on the way to a VIP, unless it reaches itself; all others get the node's."""
    own = topology.machines[question.asker].address(question.version)
    local = any(ip_address(own) in ip_network(cidr) for cidr in topology.local_cidrs)
    if question.entry == "VIP" and local and question.asker != backend.name:
        return own
    node = topology.nodes[question.node]
    return (node.bridge_address if backend.node == node.name else node.address)(question.version)


def judge(expectation: Expectation, tally: Tally) -> list[str]:
    """What is wrong with these answers, in words; nothing when they are as expected."""
    if not expectation.weights:
        return [] if set(tally.failures) == {"refused"} and not tally.answers else ["not refused"]
    if tally.failures:
        return [f"{count} {kind}" for kind, count in tally.failures.items()]
    faults = []
    if share_test(tally.backends, expectation.weights) < DOUBT:
        faults.append("shares differ")
    for (backend, source), _count in sorted(tally.answers.items()):
        if source != expectation.sources.get(backend, source):
            faults.append(f"{backend} sees {source}, not {expectation.sources[backend]}")
    return faults
