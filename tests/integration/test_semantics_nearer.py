# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 31 and 32: nearer backends first, and spares."""

from __future__ import annotations

from typing import Any

import pytest
from network import Network, backends, external_ip, vip

COUNT = 60
"""Connections; one backend of two is missed by all of them once in 10^18 runs."""
LOCAL, REMOTE = ("b11", "b12"), ("b21", "b22")
UNREADY = {"ready": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}


def _web(family: str, of: dict[str, dict[str, Any]], **options: Any) -> dict[str, Any]:
    made = [{**backends(name, family=family)[0], **more} for name, more in of.items()]
    addresses = {"vip": vip(1, family), "external_ips": external_ip(1, family)}
    return {"name": "web", **addresses, "port": 80, "backends": made, **options}


def _reached(network: Network, address: str) -> set[str]:
    tally = network.ask("client", address, 80, count=COUNT)
    assert tally.answered == COUNT, tally
    return set(tally.backends)


@pytest.mark.semantics(31)
@pytest.mark.parametrize(
    ("zone", "of", "used"),
    [
        ("a", {"b11": {"zone": "b"}, "b21": {"zone": "a"}, "b22": {"zone": "a"}}, {"b21", "b22"}),
        ("a", {"b11": {"zone": "a", **UNREADY}, "b21": {"zone": "a"}, "b22": {}}, {"b21"}),
        ("a", {"b11": {"zone": "a", "weight": 0}, "b12": {"zone": "b"}, "b21": {}}, {"b12", "b21"}),
        ("c", {"b11": {"zone": "a"}, "b21": {"zone": "b"}}, {"b11", "b21"}),
        (None, {"b11": {}, "b21": {"zone": "b"}}, {"b11", "b21"}),
    ],
    ids=["those of the zone", "usable ones", "none usable there", "none there", "a node without zone"],
)
def test_backends_of_the_zone_take_all_where_there_is_one(
    network: Network, family: str, zone: str | None, of: dict[str, dict[str, Any]], used: set[str]
) -> None:
    network.applied([_web(family, of, traffic_distribution="prefer_zone")], node={"zone": zone})
    assert _reached(network, vip(1, family)) == used
    assert _reached(network, external_ip(1, family)) == used


@pytest.mark.semantics(31)
def test_backends_of_the_node_take_all_where_there_is_one(network: Network, family: str) -> None:
    everyone: dict[str, dict[str, Any]] = {name: {} for name in (*LOCAL, *REMOTE)}
    web = _web(family, everyone, traffic_distribution="prefer_node")
    network.applied([web])
    assert _reached(network, vip(1, family)) == set(LOCAL)
    network.applied([_web(family, {**everyone, "b11": UNREADY, "b12": UNREADY}, traffic_distribution="prefer_node")])
    assert _reached(network, vip(1, family)) == set(REMOTE)
    network.applied([{**web, "traffic_distribution": "any"}])
    assert _reached(network, vip(1, family)) == {*LOCAL, *REMOTE}


@pytest.mark.semantics(31)
def test_a_preference_stays_within_what_policies_allow(network: Network, family: str) -> None:
    of = {"b11": {"zone": "b"}, "b21": {"zone": "a"}}
    policies = {"internal_traffic_policy": "local", "external_traffic_policy": "local"}
    network.applied([_web(family, of, traffic_distribution="prefer_zone", **policies)], node={"zone": "a"})
    assert _reached(network, vip(1, family)) == {"b11"}
    assert _reached(network, external_ip(1, family)) == {"b11"}


@pytest.mark.semantics(32)
@pytest.mark.parametrize(
    ("of", "used"),
    [
        ({"b11": {}, "b12": {"tier": 1}, "b21": {"tier": 9}}, {"b11"}),
        ({"b11": UNREADY, "b12": {"tier": 1}, "b21": {"tier": 1}, "b22": {"tier": 2}}, {"b12", "b21"}),
        ({"b11": {"weight": 0}, "b21": {"tier": 9}}, {"b21"}),
        ({"b11": DRAINING, "b21": {"tier": 9}}, {"b21"}),
        ({"b11": {**DRAINING, "tier": 1}, "b21": {**DRAINING, "tier": 2}}, {"b11"}),
    ],
    ids=["the lowest", "the next", "drained", "draining", "all draining"],
)
def test_a_spare_is_used_only_while_no_lower_tier_has_a_usable_backend(
    network: Network, family: str, of: dict[str, dict[str, Any]], used: set[str]
) -> None:
    network.applied([_web(family, of)])
    assert _reached(network, vip(1, family)) == used


@pytest.mark.semantics(32)
def test_each_pool_has_its_own_lowest_tier(network: Network, family: str) -> None:
    """Insiders and outsiders: the only backend here is a spare of the one elsewhere."""
    network.applied([_web(family, {"b11": {"tier": 1}, "b21": {}}, external_traffic_policy="local")])
    assert _reached(network, vip(1, family)) == {"b21"}
    assert _reached(network, external_ip(1, family)) == {"b11"}


@pytest.mark.semantics(31)
@pytest.mark.semantics(32)
def test_a_spare_nearby_is_still_a_spare(network: Network, family: str) -> None:
    network.applied([_web(family, {"b11": {"tier": 1}, "b21": {}}, traffic_distribution="prefer_node")])
    assert _reached(network, vip(1, family)) == {"b21"}


@pytest.mark.semantics(31)
@pytest.mark.semantics(32)
def test_a_change_of_a_zone_or_tier_alone_is_seen(network: Network, family: str) -> None:
    """By runs behind one that changed nothing, which read little of what the node has."""
    of: dict[str, dict[str, Any]] = {"b11": {"zone": "a"}, "b21": {"zone": "b"}}
    web = _web(family, of, traffic_distribution="prefer_zone")
    network.applied([web], node={"zone": "a"})
    assert not network.applied([web], node={"zone": "a"})["changed"]
    assert network.applied([web], node={"zone": "b"})["changed"]
    assert _reached(network, vip(1, family)) == {"b21"}
    assert not network.applied([web], node={"zone": "b"})["changed"]
    of["b21"] = {"zone": "b", "tier": 1}
    assert network.applied([_web(family, of, traffic_distribution="prefer_zone")], node={"zone": "b"})["updated"] == [
        "web"
    ]
    assert _reached(network, vip(1, family)) == {"b11"}
