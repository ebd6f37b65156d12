# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After service_proxy_state: absent, each node is as it was found."""

from __future__ import annotations

import pytest

from found import assert_as_found
from places import NODES, machine


@pytest.mark.parametrize("node", NODES)
def test_the_node_is_as_it_was_found(node: str) -> None:
    assert_as_found(machine(node))
