# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services and nodes of which `golden/nftables.txt` has the tables; run it to write that file anew.

Who changes the rules reads what has changed in them in the difference of that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services
from ansible_collections.layer4.service_proxy.tests.unit.golden_ipvs import HERE, SERVICES, THERE

GOLDEN = Path(__file__).parent / "golden" / "nftables.txt"
OF_IPVS = ("scheduler", "forward_method")
LOCAL = {"internal_traffic_policy": "local", "external_traffic_policy": "local", "session_affinity": "client_ip"}
ALL: list[dict[str, Any]] = [
    *(
        {key: value for key, value in one.items() if key not in OF_IPVS}
        for one in SERVICES
        if "forward_method" not in one
    ),
    {"name": "near", "vip": "10.96.0.9", "port": 80, "node_port": 30081, "backends": [HERE, THERE], **LOCAL},
    {"name": "uneven", "vip": "10.96.0.10", "port": 80, "backends": [{**HERE, "weight": 300}, THERE]},
]
NODES: dict[str, dict[str, Any]] = {
    "local sources": {"local_cidrs": ["10.0.0.0/16", "fd00::/16"], "localhost_node_ports": True},
    "others": {"masquerade_all": True, "snat_address": "192.0.2.1", "node_port_addresses": ["192.0.2.0/24"]},
    "bare": {"drop_invalid": False, "masquerade_mark": "0x1/0xff", "counters": True, "flow_offload": ["eth0"]},
}


def golden_text() -> str:
    """Return what the nodes are to hold: the first of all services, the others of two."""
    node = {"name": "n1", "addresses": ["192.0.2.1", "2001:db8::1", "203.0.113.5"]}
    text = ""
    for name, settings in NODES.items():
        services = ALL[: None if not text else 2]
        text += f"# node: {name}\n" + render_services(services, {"dataplane": "nftables", "node": {**node, **settings}})
    return text


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
