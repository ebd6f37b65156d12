# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After site.yml: every service from every place, the addresses that backends see, what starts at boot."""

from __future__ import annotations

import pytest

from places import BACKENDS, CLIENT, EVERYWHERE, HOST_OF, NODES, ON_BACKENDS, ON_NODES, OUTSIDE, Place, machine

VIP = "10.100.100.1"
ENOUGH = 40  # connections in which each of three backends answers, but for once in ten million


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend_by_the_virtual_ip(place: Place) -> None:
    assert place.backends(VIP, 80, ENOUGH) == set(BACKENDS)


@pytest.mark.parametrize("node", NODES)
def test_every_node_answers_on_its_node_port(node: str) -> None:
    for place in (Place("client"), *ON_NODES, Place("web3")):
        assert place.backends(NODES[node][0], 30080, ENOUGH) == set(BACKENDS)


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_datagrams_are_answered(place: Place) -> None:
    assert place.backends(VIP, 53, ENOUGH, "udp") == {"web1", "web3"}


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_a_service_without_backends_refuses(place: Place) -> None:
    assert set(place.ask("10.100.100.2", 80)) == {"refused"}


@pytest.mark.parametrize("place", ON_BACKENDS, ids=str)
def test_backends_see_each_other_and_behind_themselves_the_bridge(place: Place) -> None:
    sources = place.sources(VIP, 80, ENOUGH)
    bridge = {"node1": "10.10.1.1", "node2": "10.10.2.1"}[HOST_OF[place.name]]
    assert sources == {name: {bridge if name == place.name else place.addresses[0]} for name in BACKENDS}


@pytest.mark.parametrize("place", OUTSIDE, ids=str)
def test_backends_see_the_node_in_place_of_the_client(place: Place) -> None:
    node = NODES[place.gateway or ""][0]
    inside = {"node1": "10.10.1.1", "node2": "10.10.2.1"}.get(place.gateway or "")
    local = {name: {inside or ""} for name, host in HOST_OF.items() if host == place.gateway}
    assert place.sources(VIP, 80, ENOUGH) == {**{name: {node} for name in BACKENDS}, **local}
    assert CLIENT[0] != node


@pytest.mark.parametrize("node", NODES)
def test_what_restores_the_rules_is_enabled_and_stands_before_the_network_is_online(node: str) -> None:
    unit = machine(node).service("layer4-service-proxy")
    verified = machine(node).run("systemd-analyze verify --man=no layer4-service-proxy.service")
    assert (verified.rc, verified.stdout, verified.stderr) == (0, "", "")
    assert unit.is_enabled
    assert "network-online.target" in unit.systemd_properties["Before"].split()
