# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both families from every place: reachable, each with its own backends and its own source addresses."""

from __future__ import annotations

import pytest

from places import EVERYWHERE, HOST_OF, NODES, ON_BACKENDS, OUTSIDE, Place, machine

FAMILIES = [("10.100.100.1", {"web1", "web3"}), ("fd00:100::1", {"web2", "web3"})]


@pytest.mark.parametrize(("address", "backends"), FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_virtual_ip_leads_to_the_backends_of_its_family(place: Place, address: str, backends: set[str]) -> None:
    assert place.backends(address, 80, 30) == backends


@pytest.mark.parametrize("node", NODES)
def test_node_ports_answer_in_both_families(node: str) -> None:
    for address, (dummy, backends) in zip(NODES[node], FAMILIES):
        assert Place("client").backends(address, 30080, 30) == backends


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_datagrams_over_ipv6_are_answered(place: Place) -> None:
    assert place.backends("fd00:100::1", 53, 30, "udp") == {"web2", "web3"}


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_a_family_without_backends_refuses(place: Place) -> None:
    assert set(place.ask("fd00:100::2", 80)) == {"refused"}
    assert place.backends("10.100.100.2", 80, 3) == {"web1"}


@pytest.mark.parametrize("place", ON_BACKENDS, ids=str)
def test_backends_keep_their_ipv6_address_but_towards_themselves(place: Place) -> None:
    sources = place.sources("fd00:100::1", 80, 30)
    bridge = {"node1": "fd00:10:1::1", "node2": "fd00:10:2::1"}[HOST_OF[place.name]]
    assert sources == {name: {bridge if name == place.name else place.addresses[1]} for name in ("web2", "web3")}


@pytest.mark.parametrize("place", OUTSIDE, ids=str)
def test_the_clients_ipv6_address_becomes_the_nodes(place: Place) -> None:
    sources = place.sources("fd00:100::1", 80, 30)
    own = {*NODES[place.gateway or ""], "fd00:10:1::1", "fd00:10:2::1"}
    assert set().union(*sources.values()) <= own


@pytest.mark.parametrize("node", NODES)
def test_backends_have_no_chains(node: str) -> None:
    rules = machine(node).check_output("iptables-save -t nat; ip6tables-save -t nat")
    assert rules.count("L4-HAIRPIN") > 2
    assert "L4-SEP-" not in rules
