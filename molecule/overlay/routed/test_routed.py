# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Behind the switch nothing is left of VXLAN, and routes lead to the addresses of the nodes."""

from __future__ import annotations

import pytest

from places import NODES, machine


@pytest.mark.parametrize("node", NODES)
def test_routes_lead_to_the_other_nodes(node: str) -> None:
    host = machine(node)
    assert not host.interface("l4-vxlan0").exists
    shown = host.check_output("ip route show proto 76; ip -6 route show proto 76")
    for other, network in (("node1", "10.10.1.0/24"), ("node2", "10.10.2.0/24")):
        assert (f"{network} via {NODES[other][0]} dev" in shown) == (other != node)
