# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New connections counted by service and by backend, as service_proxy_info reports them."""

from __future__ import annotations

from typing import Any

import pytest
from network import IPV4, IPV6, Network, backends, vip

from module_runner import run_module_ok

COUNTING = {"counters": True}

pytestmark = pytest.mark.parametrize("network", ["nftables"], indirect=True, scope="module")


def _services() -> list[dict[str, Any]]:
    both = backends("b11", "b12", "b21", family=IPV4) + backends("b11", "b21", family=IPV6)
    common = {"port": 80, "backends": both}
    return [
        {**common, "name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "node_port": 30080},
        {**common, "name": "sticky", "vip": [vip(2, IPV4), vip(2, IPV6)], "session_affinity": "client_ip"},
        {"name": "empty", "port": 80, "vip": vip(3, IPV4)},
    ]


def _counted(network: Network) -> dict[str, tuple[int, dict[str, int]]]:
    found = run_module_ok(network.hosts["node1"], "service_proxy_info", {"dataplane": ["nftables"]})
    return {
        one["name"]: (one["connections"], {each["address"]: each["connections"] for each in one["backends"]})
        for one in found["dataplanes"]["nftables"]["services"]
    }


def test_connections_are_counted_and_kept_over_changes_of_others(network: Network) -> None:
    services = _services()
    network.applied(services, node=COUNTING)
    assert not network.applied(services, node=COUNTING)["changed"]
    assert network.ask("client", vip(1, IPV4), 80, count=12).answered == 12
    assert network.ask("client", vip(1, IPV6), 80, count=5).answered == 5
    assert network.ask("client", vip(2, IPV4), 80, count=7).answered == 7
    assert network.ask("client", vip(3, IPV4), 80, count=1).answered == 0
    before = _counted(network)
    assert [before[name][0] for name in ("web", "sticky", "empty")] == [17, 7, 1]
    assert sum(before["web"][1].values()) == 17
    assert sorted(before["sticky"][1].values()) == [0, 0, 0, 0, 7]
    network.applied([*services[:2], {**services[2], "backends": backends("b11")}], node=COUNTING)
    after = _counted(network)
    assert (after["web"], after["sticky"]) == (before["web"], before["sticky"])
    assert after["empty"] == (0, {next(iter(after["empty"][1])): 0})


def test_nothing_is_counted_unless_asked_for(network: Network) -> None:
    network.applied(_services())
    network.ask("client", vip(1, IPV4), 80, count=3)
    assert {connections for connections, dummy in _counted(network).values()} == {None}


def test_counters_that_count_are_no_change_of_ours(network: Network) -> None:
    """Somebody else has changed a table, and packets have passed: our digest is the same."""
    services = _services()
    network.applied(services, node=COUNTING)
    node = network.hosts["node1"]
    for number in range(3):
        node.run("nft", "add", "table", "ip", f"others-{number}")
        assert not network.applied(services, node=COUNTING)["changed"]
        network.ask("client", vip(1, IPV4), 80, count=3)
    assert _counted(network)["web"][0] == 9
    for number in range(3):
        node.run("nft", "delete", "table", "ip", f"others-{number}")
