# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each role does when it is alone on a node."""

from __future__ import annotations

import pytest

from places import BACKENDS, CLIENT, NODES, Place, machine


@pytest.mark.parametrize("node", NODES)
def test_node_forwards_and_bridges_pass_iptables(node: str) -> None:
    for name in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"):
        assert machine(node).sysctl(name) == 1


def test_bridge_lets_backends_reach_each_other_where_nothing_else_is_forwarded() -> None:
    web1 = Place("web1")
    assert web1.backends(BACKENDS["web2"][0], 8080, 3) == {"web2"}
    assert web1.backends(BACKENDS["web2"][1], 8080, 3) == {"web2"}
    assert set(web1.ask(CLIENT[0], 8080)) == {"timeout"}


def test_bridge_sets_hairpin_on_the_port_that_was_named_and_on_no_other() -> None:
    modes = {
        port: machine("node1").check_output(f"cat /sys/class/net/{port}/brport/hairpin_mode")
        for port in ("web1", "web2")
    }
    assert modes == {"web1": "1", "web2": "0"}


def test_backend_masquerades_what_leaves() -> None:
    assert Place("web3").sources(CLIENT[0], 8080, 3) == {"outside": {NODES["node2"][0]}}


def test_proxy_serves() -> None:
    assert Place("client", "node3").backends("10.100.100.1", 80, 3) == {"web3"}
