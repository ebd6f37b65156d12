# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After the external traffic policy has become local, with all backends back."""

from __future__ import annotations

import pytest

from held import assert_held
from places import BACKENDS, CLIENT, EVERYWHERE, NODES, Place, held

CLIENT_PLACE = Place("client")


@pytest.mark.parametrize(("node", "local"), [("node1", {"web1", "web2"}), ("node2", {"web3"})])
def test_a_node_port_leads_to_the_nodes_own_backends_which_see_the_client(node: str, local: set[str]) -> None:
    assert CLIENT_PLACE.sources(NODES[node][0], 30080, 30) == {name: {CLIENT[0]} for name in local}


def test_a_node_without_backends_drops() -> None:
    assert set(CLIENT_PLACE.ask(NODES["node3"][0], 30080)) == {"timeout"}


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_virtual_ip_leads_to_all_backends(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 40) == set(BACKENDS)


def test_the_open_connection_went_on() -> None:
    assert_held(held)
