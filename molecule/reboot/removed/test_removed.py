# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service that was removed, and the dataplane that was left, do not come back at boot."""

from __future__ import annotations

import pytest

from machine_places import Place, machine


@pytest.mark.parametrize("name", ["node1", "client"])
def test_the_service_answers_nobody(name: str) -> None:
    assert not any(" " in word for word in Place(name).ask("10.100.100.103", 80))


def test_nothing_of_it_is_left() -> None:
    kept = "cat /var/lib/layer4-service-proxy/current/services.* | tr --delete --complement '[:print:]'"
    for command in ("nft list ruleset", "ipset save", kept):
        found = machine().check_output(command)
        assert "removed: " not in found
        assert "10.100.100.103" not in found
        assert "L4-AFF-" not in found


def test_nothing_of_ipvs_is_left_nor_of_iptables() -> None:
    assert "L4-" not in machine().check_output("iptables-save; ip6tables-save; ipset save")
    assert not machine().interface("l4-ipvs0").exists
    assert not machine().file("/var/lib/layer4-service-proxy/current/services.ipvsadm").exists
    assert not machine().file("/proc/net/ip_vs").exists


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_flow_table_is_back_with_the_bridge(family: str) -> None:
    """Its devices were not there yet when the services came back."""
    table = machine().check_output(f"nft list table {family} l4-service-proxy")
    assert "devices = { br0, eth1 }" in table
    assert "flow add @offloaded" in table
