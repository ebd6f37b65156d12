# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services are there, and the snapshot that is to show that they are gone shows them."""

from __future__ import annotations

import pytest

from places import EVERYWHERE, NODES, ON_NODES, Place, machine


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_the_service(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 5) <= {"web1", "web3"}


@pytest.mark.parametrize("place", ON_NODES, ids=str)
def test_the_node_port_answers_on_localhost(place: Place) -> None:
    assert place.backends("127.0.0.1", 30080, 5) <= {"web1", "web3"}


@pytest.mark.parametrize("node", NODES)
def test_the_snapshot_shows_each_kind_of_trace(node: str) -> None:
    host = machine(node)
    added = set(host.check_output("snapshot").splitlines()) - set(
        host.file("/var/tmp/found").content_string.splitlines()
    )
    kinds = {line.split()[0] for line in added}
    assert {"iptables", "ip6tables", "ipset", "net.ipv4.conf.all.route_localnet", "file", "unit"} <= kinds
