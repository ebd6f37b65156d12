# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Node setting `flow_offload` on whatever kernel this is: a flow table, or one line that says that it has none."""

from __future__ import annotations

from nft_host import NftHost

from module_runner import run_module

PROBE = """\
table ip probe {
    flowtable probe {
        hook ingress priority filter
        devices = { lo }
    }
}
"""
REFUSAL = (
    'nftables: adding flow table "offloaded" of table ip l4-service-proxy: one of lo is not there, or this kernel has no flow '
    "tables (nf_flow_table)"
)


def test_a_kernel_without_flow_tables_is_named_in_one_line() -> None:
    web = {"name": "web", "vip": "10.9.9.9", "port": 80, "backends": [{"address": "10.0.0.11"}]}
    options = {"services": [web], "dataplane": "nftables", "node": {"name": "node1", "flow_offload": ["lo"]}}
    with NftHost() as host:
        offered = host.namespace.run("nft", "-f", "-", input=PROBE, check=False).returncode == 0
        result = run_module(host.namespace, "vip_service", options)
        if offered:
            assert result["added"] == ["web"]
            assert "flow add @offloaded" in host.nft("list", "ruleset")
        else:
            assert result["msg"] == REFUSAL
            assert host.nft("list", "ruleset") == ""
