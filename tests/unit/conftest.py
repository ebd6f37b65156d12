# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leave out, on a managed host's Python, the tests of code that only the controller runs; keep all tests off this machine's rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables import cache_file
from ansible_collections.layer4.service_proxy.tests.unit.sampling import ON_CONTROLLER

CONTROLLER_ONLY = [
    "test_action_*.py",
    "test_collection*.py",
    "test_filter_*.py",
    "test_lab_vm.py",
    "test_lookup_*.py",
    "test_netns_connection.py",
    "test_readme.py",
    "test_role*.py",
]

collect_ignore_glob = [] if ON_CONTROLLER else CONTROLLER_ONLY
settings.load_profile("controller" if ON_CONTROLLER else "managed host")


@pytest.fixture(scope="session", autouse=True)
def _no_chains_of_others() -> Iterator[None]:
    """Nobody else has chains of nftables, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_file, "chains_of_others", list)
        yield
