# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After service_proxy_state: absent, each node is as it was found."""

from __future__ import annotations

from difflib import unified_diff

import pytest

from places import NODES, machine


@pytest.mark.parametrize("node", NODES)
def test_the_node_is_as_it_was_found(node: str) -> None:
    host = machine(node)
    found = host.file("/var/tmp/found").content_string.splitlines()
    assert list(unified_diff(found, host.check_output("snapshot").splitlines(), lineterm="", n=0)) == []
