# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""On nodes without iptables and ipset: every service from every place, and the rules of every role; before a restart and behind it."""

from __future__ import annotations

import pytest

from places import BACKENDS, EVERYWHERE, HOST_OF, NODES, ON_BACKENDS, Place, machine

VIP, VIP6 = "10.100.100.1", "fd00:100::1"
ENOUGH = 40  # connections in which each of three backends answers, but for once in ten million


@pytest.mark.parametrize("node", NODES)
def test_the_node_has_neither_iptables_nor_ipset(node: str) -> None:
    host = machine(node)
    assert [tool for tool in ("iptables", "ip6tables", "xtables-nft-multi", "ipset") if host.exists(tool)] == []
    assert host.run("dpkg --list iptables ipset | grep ^ii").stdout == ""


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend(place: Place) -> None:
    assert place.backends(VIP, 80, ENOUGH) == set(BACKENDS)
    assert place.backends(VIP6, 80, ENOUGH) == {"web1", "web3"}
    assert place.backends(VIP, 53, ENOUGH, "udp") == {"web1", "web3"}
    assert place.backends(NODES["node3"][0], 30080, ENOUGH) == set(BACKENDS)
    assert set(place.ask("10.100.100.2", 80)) == {"refused"}


@pytest.mark.parametrize("place", ON_BACKENDS, ids=str)
def test_backends_see_each_other_and_behind_themselves_the_bridge(place: Place) -> None:
    bridge = {"node1": "10.10.1.1", "node2": "10.10.2.1"}[HOST_OF[place.name]]
    expected = {name: {bridge if name == place.name else place.addresses[0]} for name in BACKENDS}
    assert place.sources(VIP, 80, ENOUGH) == expected


@pytest.mark.parametrize("place", ON_BACKENDS, ids=str)
def test_elsewhere_sees_the_node_in_place_of_its_backends(place: Place) -> None:
    """Nothing listens there: connection tracking shows as whom the backend came."""
    node = machine(HOST_OF[place.name])
    place.ask("10.89.77.100", 9, protocol="udp")
    seen = node.check_output(f"conntrack --dump --orig-src {place.addresses[0]} --orig-dst 10.89.77.100 2> /dev/null")
    assert f"src=10.89.77.100 dst={NODES[HOST_OF[place.name]][0]} " in seen


@pytest.mark.parametrize("node", NODES)
def test_all_of_it_is_in_two_tables(node: str) -> None:
    tables = machine(node).check_output("nft list tables").splitlines()
    assert sorted(tables) == ["table inet theirs", "table ip l4-service-proxy", "table ip6 l4-service-proxy"]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_nft_takes_its_own_listing_back(node: str, family: str) -> None:
    table = f"{family} l4-service-proxy"
    machine(node).check_output(f"{{ echo delete table {table}; nft list table {table}; }} | nft --check --file -")


@pytest.mark.parametrize("node", NODES)
def test_what_restores_the_tables_is_enabled_and_has_not_failed(node: str) -> None:
    assert machine(node).service("layer4-service-proxy").is_enabled
    assert machine(node).check_output("systemctl --failed --plain --no-legend") == ""
