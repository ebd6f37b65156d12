# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Beside each firewall: services answer in both families, ours and theirs are active, and both have their rules."""

from __future__ import annotations

import pytest

from places import BACKENDS, EVERYWHERE, NODES, Place, machine

FIREWALLS = {"node1": "firewalld", "node2": "nftables", "node3": "ufw"}
MARKS = {"node1": "table inet firewalld", "node2": "table inet filter", "node3": "chain ufw-before-forward"}


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 40) == set(BACKENDS)
    assert place.backends("fd00:100::1", 80, 30) == {"web1", "web3"}


@pytest.mark.parametrize("node", NODES)
def test_node_ports_answer(node: str) -> None:
    assert Place("client").backends(NODES[node][0], 30080, 40) == set(BACKENDS)


@pytest.mark.parametrize("node", NODES)
def test_both_are_active_and_ordered(node: str) -> None:
    host = machine(node)
    assert host.service(FIREWALLS[node]).is_running
    unit = host.service("layer4-service-proxy")
    assert unit.is_running
    assert unit.is_enabled
    assert f"{FIREWALLS[node]}.service" in unit.systemd_properties["After"].split()
    assert host.check_output("systemctl --failed --plain --no-legend") == ""


@pytest.mark.parametrize("node", NODES)
def test_the_firewall_has_its_rules(node: str) -> None:
    assert MARKS[node] in machine(node).check_output("nft list ruleset")
