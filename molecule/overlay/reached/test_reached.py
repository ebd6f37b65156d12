# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backends of other nodes answer, whichever way leads there, with the address of whoever comes from the right one."""

from __future__ import annotations

import pytest

from places import EVERYWHERE, HOST_OF, NODES, ON_BACKENDS, ON_NODES, OUTSIDE, Place, machine

FAMILIES = [("10.100.100.1", {"web1", "web3"}), ("fd00:100::1", {"web2", "web3"})]


@pytest.mark.parametrize(("address", "backends"), FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_backends_on_all_nodes_answer(place: Place, address: str, backends: set[str]) -> None:
    assert place.backends(address, 80, 30) == backends


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", ON_BACKENDS, ids=str)
def test_backends_come_to_another_node_with_their_own_address(place: Place, family: int) -> None:
    if HOST_OF[place.name] != "node2":
        address = ("10.100.100.3", "fd00:100::3")[family]
        assert place.sources(address, 80, 3) == {"web3": {place.addresses[family]}}


@pytest.mark.parametrize("address", ["10.100.100.3", "fd00:100::3"], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", [ON_NODES[2], ON_BACKENDS[0], ON_BACKENDS[2], OUTSIDE[2]], ids=str)
def test_a_megabyte_passes_each_way(place: Place, address: str) -> None:
    """From a node without backends, a backend of another node, one that gets to itself, and a client."""
    assert place.traffic("send", address, "80", str(1 << 20)) == str(1 << 20)


@pytest.mark.parametrize("node", NODES)
def test_all_of_it_stands_and_is_enabled(node: str) -> None:
    host = machine(node)
    assert "stands      yes" in host.check_output("layer4-service-proxy status")
    assert host.service("layer4-service-proxy-overlay").is_enabled
    assert host.service("layer4-service-proxy-overlay").is_running
