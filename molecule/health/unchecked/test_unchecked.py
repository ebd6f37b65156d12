# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Without checks there is no checker."""

from __future__ import annotations

import pytest

from places import BACKENDS, NODES, Place, machine


@pytest.mark.parametrize("node", NODES)
def test_nothing_is_left_of_the_checker(node: str) -> None:
    host = machine(node)
    assert host.run("systemctl status layer4-service-proxy-health").rc == 4, "no such unit"
    assert host.check_output("ls /run/layer4-service-proxy | grep health || true") == ""
    assert Place("client", node).backends("10.100.100.1", 80, 40) == set(BACKENDS)
