# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for connections: until none leads to some backends, and until no new ones come to some addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.count import Destination
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.quiet import (
    Traffic,
    wait_until_quiet,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.wait import (
    Left,
    wait_until_gone,
)

VIP, OTHER, BACKEND = ("10.96.0.1", 80), ("10.96.0.2", 80), ("10.0.0.1", 80)


def flow(key: str, live: bool = True, to: tuple[str, int] = VIP) -> Flow:
    return Flow("tcp", "ipv4", to, BACKEND, live, key.encode())


class Node:
    """Time and connections: what there is from these seconds on. slow: seconds that a look takes."""

    def __init__(self, flows: Mapping[float, Sequence[Flow]], slow: float = 0.0) -> None:
        self._flows, self._slow, self.now = flows, slow, 100.0
        self.slept: list[float] = []

    def flows(self, protocols: set[str]) -> list[Flow]:
        self.now += self._slow
        began = max(at for at in self._flows if 100.0 + at <= self.now)
        return [one for one in self._flows[began] if one.protocol in protocols]

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


def quiet(node: Node, most: float = 60.0, until_none: bool = False) -> Traffic:
    return wait_until_quiet([VIP[0]], node, most, until_none, node.clock, node.sleep)


OLD, NEW, OVER = flow("old"), flow("new"), flow("old", live=False)


@pytest.mark.parametrize(
    ("flows", "until_none", "traffic"),
    [
        ({0: []}, True, Traffic(0, 0, 3.0)),
        ({0: [OLD]}, False, Traffic(0, 1, 3.0)),
        ({0: [OLD], 2: [OLD, NEW]}, False, Traffic(0, 2, 5.0)),
        ({0: [], 2: [NEW], 2.5: []}, False, Traffic(0, 0, 5.0)),
        ({0: [OLD], 9: [OVER]}, True, Traffic(0, 0, 9.0)),
        ({0: [OLD]}, True, Traffic(0, 1, 60.0)),
        ({0: [], **{second: [flow(f"{second}")] for second in range(1, 90)}}, False, Traffic(3, 1, 60.0)),
        ({0: [], **{second: [flow(f"{second}", to=OTHER)] for second in range(1, 90)}}, True, Traffic(0, 0, 3.0)),
    ],
)
def test_traffic_is_waited_for_until_no_new_connection_comes(
    flows: Mapping[float, Sequence[Flow]], until_none: bool, traffic: Traffic
) -> None:
    assert quiet(Node(flows), until_none=until_none) == traffic


def test_no_time_to_wait_is_one_look() -> None:
    node = Node({0: [OLD]})
    assert (quiet(node, most=0.0), node.slept) == (Traffic(0, 1, 0.0), [])


def test_looking_takes_a_fifth_of_the_time_at_most() -> None:
    node = Node({0: [OLD]}, slow=1.0)
    assert quiet(node, most=20.0, until_none=True).waited == 21.0
    assert node.slept == [8.0, 4.0, 4.0]  # the first time behind two looks


def gone(node: Node, most: int = 60) -> Left:
    return wait_until_gone([Destination(*BACKEND, "tcp")], node, most, node.clock, node.sleep)


def test_connections_to_a_backend_are_waited_for() -> None:
    assert gone(Node({0: [OLD, NEW], 5: [OLD], 9: [OVER]})) == Left([0], 9.0)
    assert gone(Node({0: [OLD, NEW], 5: [OLD]}), most=7) == Left([1], 7.0)
    assert gone(Node({0: [OLD, NEW]}), most=0) == Left([2], 0.0)


def test_the_time_that_was_waited_is_told_in_tenths_of_a_second() -> None:
    assert quiet(Node({0.0: []}, slow=0.017), most=0.26).waited == 0.3
    assert gone(Node({0.0: [OLD], 0.1: []}, slow=0.17)).seconds == 0.2
