# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services and nodes of which `golden/ipvs.txt` has the rules, sets and virtual services; run it to write that file anew.

Who changes the rules reads what has changed in them in the difference of that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services

GOLDEN = Path(__file__).parent / "golden" / "ipvs.txt"
HERE, THERE = {"address": "10.0.1.11", "node": "n1", "weight": 3}, {"address": "10.0.2.11", "node": "n2"}
SIX = {"address": "fd00:1::11", "port": 8081, "node": "n2"}
BOTH = ["10.1.0.0/16", "0.0.0.0/0", "fd00::/8"]
SERVICES: list[dict[str, Any]] = [
    {"name": "web", "vip": ["10.96.0.1", "fd96::1"], "port": 80, "node_port": 30080, "backends": [HERE, THERE, SIX]},
    {"name": "kept", "vip": "10.96.0.2", "port": 80, "session_affinity": "client_ip", "backends": [HERE, THERE]},
    {"name": "none", "vip": ["10.96.0.3", "fd96::3"], "port": 53, "protocol": "udp"},
    {"name": "drained", "vip": "10.96.0.4", "port": 80, "backends": [{**HERE, "weight": 0}, {**THERE, "ready": False}]},
    {
        "name": "local",
        "vip": "10.96.0.5",
        "port": 80,
        "external_ips": ["203.0.113.5"],
        "internal_traffic_policy": "local",
        "external_traffic_policy": "local",
        "scheduler": "mh",
        "backends": [HERE, THERE],
    },
    {
        "name": "lb",
        "port": 443,
        "load_balancer_ips": ["203.0.113.6", "2001:db8::6"],
        "source_ranges": BOTH,
        "backends": [HERE, SIX],
    },
    {"name": "direct", "vip": "10.96.0.7", "port": 80, "forward_method": "direct", "backends": [THERE]},
    {
        "name": "tunnel",
        "vip": "10.96.0.8",
        "port": 80,
        "protocol": "sctp",
        "forward_method": "tunnel",
        "backends": [THERE],
    },
]
NODES: dict[str, dict[str, Any]] = {
    "local sources": {"local_cidrs": ["10.0.0.0/16", "fd00::/16"]},
    "others": {
        "masquerade_all": True,
        "snat_address": "192.0.2.1",
        "node_port_addresses": ["192.0.2.0/24"],
        "chain_prefix": "X",
    },
    "bare": {"drop_invalid": False, "masquerade_mark": "0x1/0xff", "backend_chains": False},
}


def golden_text() -> str:
    """Return what the nodes are to hold: the first of all services, the others of two."""
    node = {"name": "n1", "addresses": ["192.0.2.1", "2001:db8::1", "203.0.113.5"]}
    text = ""
    for name, settings in NODES.items():
        services = SERVICES[: None if not text else 2]
        text += f"# node: {name}\n" + render_services(services, {"dataplane": "ipvs", "node": {**node, **settings}})
    return text


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(golden_text())
