# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules that services are compiled to are those of a version: a cache that an older version left must not be believed."""

from __future__ import annotations

import hashlib
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.cache_file import RULES_VERSION
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services

GOLDEN = {
    1: "947ca571e2b3b08a3a47164989b8d205f6b1cf3ca2480087511d4a202e7c4ca2",
    2: "ec69e83ce197209bd87100d4a774fddceddc580f89783a2b578cb23132554386",
    3: "ec69e83ce197209bd87100d4a774fddceddc580f89783a2b578cb23132554386",
}
"""By `RULES_VERSION`: the digest of what these services compile to. Where it is another, raise the version and add a line."""
BACKENDS = [
    {"address": f"10.0.{at // 200}.{at % 200 + 1}", "weight": 1 + at % 3, "node": f"n{at % 2}"} for at in range(40)
]
WEB: dict[str, Any] = {"name": "web", "vip": ["10.96.0.1", "fd96::1"], "port": 80, "backends": BACKENDS[:3]}
SERVICES: list[dict[str, Any]] = [
    WEB,
    {**WEB, "name": "many", "vip": "10.96.0.2", "backends": BACKENDS, "session_affinity": "client_ip"},
    {**WEB, "name": "none", "vip": "10.96.0.3", "protocol": "udp", "backends": []},
    {**WEB, "name": "local", "vip": "10.96.0.4", "node_port": 30080, "internal_traffic_policy": "local"},
    {**WEB, "name": "kept", "vip": "10.96.0.5", "external_ips": "192.0.2.80", "external_traffic_policy": "local"},
    {**WEB, "name": "lb", "vip": [], "load_balancer_ips": "192.0.2.81", "source_ranges": ["10.0.0.0/8"]},
    {**WEB, "name": "six", "vip": [], "external_ips": ["2001:db8::80"], "backends": [{"address": "fd00::1"}]},
    *(
        {**WEB, "name": f"s{at}", "vip": f"10.97.{at // 250}.{at % 250 + 1}", "backends": BACKENDS[:1]}
        for at in range(60)
    ),
]
NODES: list[dict[str, Any]] = [
    {"local_cidrs": ["10.0.0.0/16"], "localhost_node_ports": True},
    {"masquerade_all": True, "snat_address": "192.0.2.1", "node_port_addresses": ["192.0.2.0/24"]},
    {"backend_chains": False, "drop_invalid": False},
]


def test_rules_are_those_of_their_version() -> None:
    found = hashlib.sha256()
    for settings in NODES:
        node = {"name": "n1", "addresses": ["192.0.2.1", "2001:db8::1"], **settings}
        found.update(render_services(SERVICES, {"node": node}).encode())
    assert GOLDEN[RULES_VERSION] == found.hexdigest(), "the rules are others: raise RULES_VERSION and add their digest"
