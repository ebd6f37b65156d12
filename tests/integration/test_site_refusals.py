# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An error in the inventory is reported by `site.yml` before any role has touched the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nat_host import generation
from worlds import World, differences

from playbooks import Controller

GOOD = {"name": "web", "vip": "10.100.100.100", "port": 80, "backends": [{"address": "10.0.0.11"}]}


class Bare(World):
    """A node and nothing around it."""

    def build(self) -> None:
        self.variables: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"service_proxy_services": [{**GOOD, "port": 70000}]}, ['service "web": port is 70000', "1 to 65535"]),
        (
            {"service_proxy_services": [GOOD, {**GOOD, "name": "two"}]},
            ['service "two"', 'service "web"', "taken already"],
        ),
        ({"service_proxy_services": [GOOD], "service_proxy_masquerade_mark": "x"}, ["masquerade_mark", "hexadecimal"]),
        ({"service_proxy_services": GOOD}, ["service_proxy_services is a dict: must be a list of dicts"]),
    ],
)
def test_an_error_is_reported_before_anything_is_touched(
    variables: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = _refusal(variables, tmp_path)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "variables",
    [
        {"service_proxy_conntrack_max": "many"},
        {"service_proxy_bridges": "many"},
        {"service_proxy_exclusive": "many"},
        {"service_proxy_backend_cidrs": ["10.0.0.1/24"]},
        {"service_proxy_local_cdirs": ["10.0.0.0/24"]},
    ],
)
def test_so_is_an_error_in_the_settings_of_any_role(variables: dict[str, Any], tmp_path: Path) -> None:
    message = _refusal({"service_proxy_services": [GOOD], **variables}, tmp_path)
    assert next(iter(variables)) in message


def _refusal(variables: dict[str, Any], directory: Path) -> str:
    """What site.yml says, having touched nothing."""
    with Bare() as world:
        before, number = world.snapshot(), generation(world.node)
        controller = Controller(directory)
        controller.inventory({"node1": world.node}, variables)
        run = controller.run(expect_failure=True)
        assert differences(world.snapshot(), before) == []
        assert generation(world.node) == number
        return run.message
