# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends taken out of services, and the count of connections to them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.drain import (
    backend_names,
    drain_backends,
    find_endpoints,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.count import Destination
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.wait import wait_until_gone

FIRST: dict[str, Any] = {"address": "10.0.0.11", "port": 8080, "node": "node1"}
SECOND: dict[str, Any] = {"address": "fd00:0::11", "weight": 3}
WEB: dict[str, Any] = {"name": "web", "port": 80, "backends": [FIRST, SECOND]}
DNS: dict[str, Any] = {"name": "dns", "port": 53, "protocol": "udp", "backends": [{"address": "10.0.0.12"}]}


@pytest.mark.parametrize(
    ("selection", "weights"),
    [
        (["10.0.0.11"], [0, 3]),
        ("10.0.0.11:8080", [0, 3]),
        (["10.0.0.11:80"], [None, 3]),
        (["node1"], [0, 3]),
        (["fd00::11"], [None, 0]),
        (["[fd00::0:11]:80"], [None, 0]),
        (["[fd00::112:80", "afd00::11]:80"], [None, 3]),
        (["fd00::11", "node1"], [0, 0]),
        ([], [None, 3]),
    ],
)
def test_selected_backends_get_weight_0(selection: Any, weights: list[Any]) -> None:
    drained, other = drain_backends([WEB, DNS], selection)
    assert [backend.get("weight") for backend in drained["backends"]] == weights
    assert other is DNS
    assert "weight" not in FIRST


def test_what_is_no_service_is_left_for_others_to_refuse() -> None:
    odd = [None, "x", {"name": "a", "backends": "x"}, {"backends": [1, {}, {"address": 5}]}]
    assert drain_backends(odd, ["10.0.0.11"]) == odd
    assert find_endpoints(odd) == []


@pytest.mark.parametrize("node", [["node1"], {"node1": 1}, 5, True, ""])
def test_what_is_no_name_of_a_node_selects_nothing(node: Any) -> None:
    services = [{**WEB, "backends": [{**FIRST, "node": node}, SECOND]}]
    assert drain_backends(services, ["node1"]) == services
    assert find_endpoints(services, ["node1"]) == []
    assert backend_names(services) == ["10.0.0.11", "10.0.0.11:8080", "[fd00::11]:80", "fd00::11"]


@pytest.mark.parametrize("selection", [None, 5, [5], [""], {"a": "b"}])
def test_a_wrong_selection_is_one_line(selection: Any) -> None:
    with pytest.raises(InvalidServices, match=r"^drain: backends is .*: must be a list of addresses, [^\n]*$"):
        drain_backends([WEB], selection)
    if selection is not None:
        with pytest.raises(InvalidServices, match=r"^endpoints: backends is .*: must be a list of addresses, [^\n]*$"):
            find_endpoints([WEB], selection)


@pytest.mark.parametrize(("ask", "owner"), [(drain_backends, "drain"), (find_endpoints, "endpoints")])
def test_what_is_no_list_of_services_is_refused_by_whom_was_asked(ask: Any, owner: str) -> None:
    with pytest.raises(InvalidServices, match=f'^{owner}: services is "web": must be a list of dicts$'):
        ask("web", ["10.0.0.11"])


def test_endpoints_are_listed_once_in_order() -> None:
    tcp = {"address": "10.0.0.11", "port": 8080, "protocol": "tcp"}
    udp = {"address": "10.0.0.12", "port": 53, "protocol": "udp"}
    ipv6 = {"address": "fd00::11", "port": 80, "protocol": "tcp"}
    assert find_endpoints([DNS, WEB, WEB]) == [tcp, udp, ipv6]
    assert find_endpoints([DNS, WEB], ["node1", "10.0.0.12:53"]) == [tcp, udp]
    assert find_endpoints([DNS, WEB], ["10.0.0.12:8080"]) == []


BACKEND = Destination("10.0.0.11", 8080, "tcp")
TO_BACKEND = Flow("tcp", "ipv4", ("10.96.0.1", 80), ("10.0.0.11", 8080), True, b"")
OTHERS = [
    TO_BACKEND._replace(live=False),
    TO_BACKEND._replace(protocol="udp"),
    TO_BACKEND._replace(destination=("10.0.0.11", 8080)),
    TO_BACKEND._replace(reply_source=("10.0.0.11", 8081)),
]


class Clock:
    """Time that only sleeping takes, and connections that end at some time."""

    def __init__(self, end: float) -> None:
        self.now, self.end = 100.0, 100.0 + end

    def flows(self, protocols: set[str]) -> list[Flow]:
        assert protocols == {"tcp"}
        return OTHERS + [TO_BACKEND, TO_BACKEND] * (self.now < self.end)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, most_seconds: int) -> tuple[list[int], float]:
        return wait_until_gone([BACKEND], self, most_seconds, lambda: self.now, self.sleep)


def test_waiting_ends_with_the_last_connection_or_with_the_time() -> None:
    assert Clock(end=0).wait(60) == ([0], 0.0)
    assert Clock(end=2.5).wait(60) == ([0], 3.0)
    assert Clock(end=99).wait(5) == ([2], 5.0)
    assert Clock(end=99).wait(0) == ([2], 0.0)
