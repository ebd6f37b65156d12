# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every combination of policies, backends, way in, source and family, in the network of the traffic tests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from network import ADDRESSES, IPV4, IPV6, LOCAL_CIDRS, backends, balancer_ip, external_ip, vip
from semantics import BALANCER, EXTERNAL, NODE_PORT, VIP, Endpoint, Expected, expected, expected_of_ipvs

FAMILIES = (IPV4, IPV6)
LOCALHOST = {IPV4: "127.0.0.1", IPV6: "::1"}
PORT = 80
FIRST_NODE_PORT = 30000
BRIDGE_PORT, LOCALHOST_PORT = "node port at the bridge", "node port at localhost"
WAYS = (VIP, EXTERNAL, BALANCER, NODE_PORT, BRIDGE_PORT)
SOURCES = ("node1", "b11", "b12", "client")
"""The node; two local sources, of which b11 and b12 are backends in most cases; one outside."""
READY: dict[str, Any] = {}
DRAINING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": True, "terminating": False}
STATES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "ready": [READY, {"weight": 3}],
    "draining": [DRAINING, {**DRAINING, "tier": 1}],
    "unready": [UNREADY, {"ready": False}],
    "mixed": [DRAINING, {"tier": 2}],
    "idle": [{"weight": 0}, UNREADY],
}
"""The first and the second backend on a node, by what becomes of the node's backends together."""
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "no local cidrs": {"local_cidrs": []},
    "masquerade all": {"masquerade_all": True},
    "snat address": {"snat_address": ADDRESSES["node1"][IPV4]},
    "node port addresses": {"node_port_addresses": ["192.0.2.0/24", "2001:db8::/64"], "localhost_node_ports": True},
}
ZONES: dict[str, dict[str, Any]] = {"b11": {"zone": "a"}, "b12": {"zone": "b"}, "b21": {"zone": "a"}, "b22": {}}
DISTRIBUTIONS = {"outside": "prefer_zone", "inside": "prefer_node"}
"""By ranges, so that there are no more kinds."""
RANGES: dict[str, dict[str, list[str]]] = {
    "everyone": {family: [] for family in FAMILIES},
    "outside": {IPV4: ["192.0.2.100/32"], IPV6: ["2001:db8::100/128"]},
    "inside": {IPV4: ["10.0.0.0/16", "192.0.2.1/32"], IPV6: ["fd00:1::/64", "2001:db8::1/128"]},
    "other family": {IPV4: ["::/0"], IPV6: ["0.0.0.0/0"]},
}


class Kind(NamedTuple):
    """A kind of service."""

    family: str
    internal: str
    external: str
    local: str
    remote: str
    ranges: str

    def service(self, number: int, protocol: str = "tcp") -> dict[str, Any]:
        """One of this kind, with addresses and a node port by its number, which is 1 to 250."""
        family = self.family
        made = [
            {**backend, **ZONES[name], **state}
            for names, chosen in ((("b11", "b12"), self.local), (("b21", "b22"), self.remote))
            for name, backend, state in zip(names, backends(*names, family=family), STATES[chosen])
        ]
        return {
            "name": f"service-{number}",
            "vip": [vip(number, family)],
            "external_ips": [external_ip(number, family)],
            "load_balancer_ips": [balancer_ip(number, family)],
            "port": PORT,
            "protocol": protocol,
            "node_port": FIRST_NODE_PORT + number,
            "internal_traffic_policy": self.internal,
            "external_traffic_policy": self.external,
            "source_ranges": RANGES[self.ranges][family],
            "traffic_distribution": DISTRIBUTIONS.get(self.ranges, "any"),
            "backends": made,
        }


class Question(NamedTuple):
    """Who asks a service, and by which way."""

    way: str
    source: str

    def origin(self, family: str) -> str:
        return LOCALHOST[family] if self.way == LOCALHOST_PORT else ADDRESSES[self.source][family]

    def destination(self, service: dict[str, Any], family: str) -> Endpoint:
        if self.way in (VIP, EXTERNAL, BALANCER):
            return service[self.way][0], service["port"]
        return self._node_address(family), service["node_port"]

    def _node_address(self, family: str) -> str:
        if self.way == LOCALHOST_PORT:
            return LOCALHOST[family]
        return ADDRESSES["bridge1" if self.way == BRIDGE_PORT else "node1"][family]

    def expected(
        self, service: dict[str, Any], node: dict[str, Any], family: str, dataplane: str = "iptables"
    ) -> Expected:
        key = self.way if self.way in (VIP, EXTERNAL, BALANCER) else NODE_PORT
        destination, dummy = self.destination(service, family)
        origin = self.origin(family)
        if self.source == "node1" and (destination in node["addresses"] or (dataplane == "ipvs" and key != NODE_PORT)):
            origin = destination
        return (expected_of_ipvs if dataplane == "ipvs" else expected)(service, node, key, origin, destination)


_ALL_QUESTIONS = [Question(way, source) for way in WAYS for source in SOURCES] + [Question(LOCALHOST_PORT, "node1")]


def questions(kind: Kind, dataplane: str = "iptables") -> list[Question]:
    """All that can be asked; of the last two ranges only those that they may concern."""
    possible = [one for one in _ALL_QUESTIONS if dataplane != "ipvs" or one.way != LOCALHOST_PORT]
    return [one for one in possible if kind.ranges in ("everyone", "inside") or one.way == BALANCER]


def node(settings: str, dataplane: str = "iptables") -> dict[str, Any]:
    """node1, with the settings of this name, as far as the dataplane knows them."""
    addresses = [ADDRESSES[name][family] for family in FAMILIES for name in ("node1", "bridge1")]
    made = {"name": "node1", "zone": "a", "addresses": addresses, "local_cidrs": LOCAL_CIDRS, **SETTINGS[settings]}
    return made if dataplane != "ipvs" else {**made, "localhost_node_ports": False}


def kinds(family: str, settings: str) -> Iterator[Kind]:
    """Every kind of service in this family; with unusual settings only of states that are no mixture."""
    policies = ("cluster", "local")
    states = list(STATES)[: None if settings == "usual" else 3]
    for chosen in product(policies, policies, states, states, RANGES):
        yield Kind(family, *chosen)
