# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines in which people read what becomes of services."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_changes import describe_changes

NODE = parse_node({"name": "node1", "localhost_node_ports": True})


def web(*last: int, **options: Any) -> dict[str, Any]:
    """A service with backends that end in these numbers."""
    backends = [{"address": f"10.0.0.{number}", "port": 8080} for number in last]
    return {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": backends, **options}


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ([], [web(1, 2)], "web: added, 10.96.0.1:80/tcp, 2 backends"),
        ([], [web(vip=[], node_port=30080)], "web: added, node port 30080/tcp, no backends"),
        ([web(1)], [], "web: removed"),
        ([web(1, 2, 3)], [web(1, 2, 3, 4)], "web: + 10.0.0.4:8080, shares 33 -> 25 %"),
        ([web(1, 2, 3, 4)], [web(1, 2, 4)], "web: - 10.0.0.3:8080, shares 25 -> 33 %"),
        ([web(1)], [web(1, port=81)], "web: port 80 -> 81"),
        ([web(1)], [web(1, source_ranges=["10.0.0.0/8"])], "web: source_ranges none -> 10.0.0.0/8"),
        (
            [web(1, 2)],
            [web(backends=[{"address": "10.0.0.1", "port": 8080, "weight": 0}, {"address": "10.0.0.2", "port": 8080}])],
            "web: shares 10.0.0.1:8080 50 -> 0 %, 10.0.0.2:8080 50 -> 100 %",
        ),
        *(
            (
                [web(1, 2)],
                [web(backends=[{"address": "10.0.0.1", "port": 8080, **state}, {"address": "10.0.0.2", "port": 8080}])],
                "web: shares 10.0.0.1:8080 50 -> 0 %, 10.0.0.2:8080 50 -> 100 %",
            )
            for state in ({"ready": False}, {"terminating": True}, {"tier": 1})
        ),
        ([web(*range(1, 10))], [web(*range(11, 20))], None),
    ],
)
def test_a_line_says_what_changes(before: list[Any], after: list[Any], line: str | None) -> None:
    found = describe_changes(before, after, NODE)
    assert describe_changes(before, after, NODE, {one.name: one for one in parse_services(after, NODE)}) == found
    assert len(found) == 1
    assert found == [line] if line else found[0].count("5 more") == 2


def test_only_services_that_differ_have_a_line_and_other_spellings_none() -> None:
    dns = {"name": "dns", "vip": "10.96.0.2", "port": 53}
    assert describe_changes([web(1), dns], [dns, web(1, protocol="tcp")], NODE) == []
