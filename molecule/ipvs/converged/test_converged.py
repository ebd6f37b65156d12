# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After site.yml, and after a switch to iptables and back: the service from every place, and nothing of the other dataplane."""

from __future__ import annotations

import pytest

from machine_places import BACKENDS, BRIDGE_ADDRESSES, EVERYWHERE, INSIDE, NODE, VIP, Place, machine

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@FAMILIES
@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_round_robin_is_exact_from_every_place(place: Place, family: int) -> None:
    assert place.shares(VIP[family], 8080, 10) == {"web1": 5, "web2": 5}


def test_round_robin_is_exact_over_a_thousand_connections() -> None:
    assert Place("client").shares(VIP[0], 8080, 1000) == {"web1": 500, "web2": 500}


@FAMILIES
@pytest.mark.parametrize("name", INSIDE)
def test_backends_see_each_other_and_behind_themselves_the_bridge(name: str, family: int) -> None:
    own = {backend: {BACKENDS[name][family]} for backend in INSIDE}
    assert Place(name).sources(VIP[family], 8080, 4) == {**own, name: {BRIDGE_ADDRESSES[family]}}


@FAMILIES
def test_backends_see_the_node_in_place_of_the_client(family: int) -> None:
    assert Place("client").sources(VIP[family], 8080, 4) == {name: {BRIDGE_ADDRESSES[family]} for name in INSIDE}


@FAMILIES
@pytest.mark.parametrize("name", ["client", *INSIDE])
def test_the_nodes_other_ports_are_not_to_be_had_at_the_virtual_ip(name: str, family: int) -> None:
    assert set(Place(name).ask(VIP[family], 22)) == {"refused"}


def test_virtual_ips_are_on_the_device_and_balanced_by_ipvs_alone() -> None:
    held = machine().check_output("ip -brief address show dev l4-ipvs0")
    assert all(address in held for address in VIP)
    assert "L4-SVC-" not in machine().check_output("iptables-save; ip6tables-save")
    assert machine().sysctl("net.ipv4.vs.conntrack") == 1


def test_the_unit_is_active() -> None:
    unit = machine().service("layer4-service-proxy")
    assert unit.is_enabled
    assert unit.is_running
    assert Place(NODE).backends(VIP[0], 8080, 2) == set(INSIDE)
