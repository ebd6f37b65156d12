# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What another version of nft(8) has left in the kernel does not reach a run (kubernetes#136786)."""

from __future__ import annotations

from typing import Any

import pytest
from nft_host import NftHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import nftables_messages as wire
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import SetHeader
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    AddSet,
    AddTable,
    TableId,
)
from module_runner import run_module_ok

OTHERS = TableId("ip", "others")
UNKNOWN_FIELD = bytes((0, 4, 1, 0, 0, 0)) + bytes((3, 8)) + bytes((0, 4, 99, 0, 0, 0)) + bytes((1, 0))
"""Userdata of a set: its key is of a field with a number that this nft does not have."""
WEB = {"name": "web", "vip": ["10.9.9.9", "fd09::9"], "port": 80, "backends": [{"address": "10.0.0.1"}]}


def test_a_set_of_others_that_nft_cannot_list_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with NftHost() as host:
        with monkeypatch.context() as patch:
            patch.setattr(wire, "encode_set", lambda _header: UNKNOWN_FIELD)
            host.apply([AddTable(OTHERS), AddSet(OTHERS, "names", SetHeader(("ipv4_addr",)))])
        listed = host.namespace.run("nft", "list", "ruleset", check=False)
        assert listed.returncode < 0, "nft is killed by it"
        arguments: dict[str, Any] = {
            "dataplane": "nftables",
            "node": {"name": "node1", "addresses": ["192.0.2.1"]},
            "services": [WEB],
        }
        assert run_module_ok(host.namespace, "vip_service", arguments)["changed"]
        assert not run_module_ok(host.namespace, "vip_service", arguments)["changed"]
        assert [one.name for one in host.read(OTHERS)] == ["others"]
        assert run_module_ok(host.namespace, "vip_service", {**arguments, "services": [], "exclusive": True})["changed"]
