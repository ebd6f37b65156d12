# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flow tables of nftables, which only the kernel of the virtual machine has: written, read, listed and replaced."""

from __future__ import annotations

import pytest
from nft_host import NftHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Chain,
    FlowOffload,
    Flowtable,
    HasBits,
    Hook,
    Rule,
    Table,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import table_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import Tables, plan_tables
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import table_id

IP = table_id("ip")


def offloaded(*devices: str) -> Tables:
    """A table whose forwarded service traffic takes a flow table of these devices."""
    rule = Rule((HasBits("ct status", pack("ct_status", "dnat")), FlowOffload("flows")))
    chains = {"forward": Chain((rule,), Hook("filter", "forward", 0))}
    return {IP: Table("ip", IP.name, {}, chains, {"flows": Flowtable(0, devices)})}


@pytest.mark.parametrize("changed", [("one", "two"), ("two",)])
def test_a_flow_table_is_read_as_it_is_written_and_replaced(changed: tuple[str, ...]) -> None:
    with NftHost() as host:
        for name in ("one", "two"):
            host.namespace.ip("link", "add", name, "up", "type", "dummy")
        host.converge(offloaded("one"), {})
        assert host.read(IP) == offloaded("one")
        host.converge(offloaded(*changed), host.read(IP))
        assert host.read(IP) == offloaded(*changed)
        assert "flow add @flows" in host.nft("list", "ruleset")
        host.converge({}, host.read(IP))
        host.nft("-f", "-", text=table_text(offloaded(*changed)[IP]))
        assert not plan_tables(offloaded(*changed), host.read(IP)).changed
