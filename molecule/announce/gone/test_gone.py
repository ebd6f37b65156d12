# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes are as they were found."""

from __future__ import annotations

import pytest

from found import assert_as_found
from places import NODES, machine


@pytest.mark.parametrize("node", NODES)
def test_nodes_are_as_they_were_found(node: str) -> None:
    assert_as_found(machine(node))
