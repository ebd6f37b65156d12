# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module ipvs_service where the kernel has no IPVS: one line that says how to get it, and other errors before that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from module_runner import run_module


def has_ipvs() -> bool:
    """Loaded, or there to be loaded."""
    known = subprocess.run(["modprobe", "--dry-run", "--quiet", "ip_vs"], check=False)
    return Path("/proc/net/ip_vs").exists() or known.returncode == 0


pytestmark = pytest.mark.skipif(has_ipvs(), reason="the kernel of this host has IPVS")
WEB = {"address": "192.0.2.10", "port": 80}


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"l4noipvs{os.getpid()}") as made:
        yield made


@pytest.mark.parametrize("state", ["present", "absent"])
@pytest.mark.parametrize("check", [False, True])
def test_one_line_says_what_is_missing_and_how_to_get_it(node: Namespace, state: str, check: bool) -> None:
    result = run_module(node, "ipvs_service", {**WEB, "state": state}, check=check)
    assert result["failed"]
    assert result["msg"] == (
        "IPVS cannot be reached over netlink: the kernel has no IPVS, or its module ip_vs is not loaded: load it with modprobe "
        "ip_vs; where there is no such module, a kernel with CONFIG_IP_VS is needed"
    )


def test_errors_in_options_come_first(node: Namespace) -> None:
    result = run_module(node, "ipvs_service", {**WEB, "persistence_timeout": -1})
    assert (
        result["msg"]
        == "virtual service tcp 192.0.2.10:80: persistence_timeout is -1: must be an integer from 0 to 2678400"
    )
