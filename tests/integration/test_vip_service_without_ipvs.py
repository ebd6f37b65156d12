# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipvs dataplane on a kernel that has no IPVS: one clear line, and nothing is touched."""

from __future__ import annotations

import os
from typing import Any

import pytest

from lab.namespaces import Namespace
from module_runner import run_module, run_module_ok

WEB: dict[str, Any] = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.1.11"}]}


def _held(node: Namespace) -> str:
    return "".join(node.run(*argv).stdout for argv in (("iptables-save",), ("ipset", "save"), ("ip", "address")))


@pytest.mark.parametrize("had", ["nothing", "iptables"])
def test_the_error_says_what_is_missing_and_how_to_load_it(had: str) -> None:
    with Namespace(f"l4noipvs{os.getpid()}") as node:
        if had == "iptables":
            run_module_ok(node, "vip_service", {"services": [WEB], "node": {"name": "node1"}})
        if node.run("cat", "/proc/net/ip_vs", check=False).returncode == 0:
            pytest.skip("this kernel has IPVS, so that what is said without it cannot be seen here")
        before = _held(node)
        refused = run_module(node, "vip_service", {"services": [WEB], "dataplane": "ipvs", "node": {"name": "node1"}})
        if not refused.get("failed"):
            pytest.skip(
                "this kernel loaded IPVS when it was asked, so that what is said without it cannot be seen here"
            )
        assert "modprobe ip_vs" in refused["msg"]
        assert len(refused["msg"].splitlines()) == 1
        without_counters = [line for line in before.splitlines() if not line.startswith("#")]
        assert [line for line in _held(node).splitlines() if not line.startswith("#")] == without_counters
        info = run_module_ok(node, "service_proxy_info", {})["dataplanes"]["ipvs"]
        assert (info["services"], info["unreadable"]) == ([], {})
