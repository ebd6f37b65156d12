# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services on iptables-legacy: reachable from every place, and nothing of ours in nftables."""

from __future__ import annotations

import pytest

from places import BACKENDS, EVERYWHERE, NODES, Place, machine

LEGACY = ["node1", "node2"]


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 40) == set(BACKENDS)


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_a_service_without_backends_refuses(place: Place) -> None:
    assert set(place.ask("10.100.100.2", 80)) == {"refused"}


@pytest.mark.parametrize("node", NODES)
def test_node_ports_answer(node: str) -> None:
    assert Place("client").backends(NODES[node][0], 30080, 40) == set(BACKENDS)


@pytest.mark.parametrize("node", NODES)
def test_rules_stand_where_the_nodes_own_iptables_has_them(node: str) -> None:
    host = machine(node)
    ours = {
        tool: "L4-SERVICES" in host.check_output(f"{tool}-save -t nat") for tool in ("iptables-legacy", "iptables-nft")
    }
    assert ours == {"iptables-legacy": node in LEGACY, "iptables-nft": node not in LEGACY}
