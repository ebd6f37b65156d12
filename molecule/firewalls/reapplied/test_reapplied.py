# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where rules come back by themselves: each jump stands once, whoever brought it back."""

from __future__ import annotations

from collections import Counter

import pytest

from places import NODES, machine


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("tool", ["iptables-save", "ip6tables-save"])
def test_no_jump_stands_twice(node: str, tool: str) -> None:
    jumps = Counter(
        line for line in machine(node).check_output(tool).splitlines() if "-j L4-" in line and "-A L4-" not in line
    )
    assert len(jumps) >= 5
    assert set(jumps.values()) == {1}, jumps


@pytest.mark.parametrize("node", NODES)
def test_the_timer_is_there(node: str) -> None:
    timer = machine(node).service("layer4-service-proxy-watch.timer")
    assert timer.is_running
    assert timer.is_enabled
