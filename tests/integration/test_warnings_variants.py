# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Warnings that depend on which variant iptables is of."""

from __future__ import annotations

import pytest
from network import IPV4, IPV6, Network, vip
from warned import answers, warnings_of, web

TOOL = {IPV4: "iptables", IPV6: "ip6tables"}


def test_a_node_on_which_all_is_well_is_not_warned(network: Network, family: str) -> None:
    service = web(family, "b11", "b12", "b21", node_port=30080)
    assert warnings_of(network, service, web(family, name="empty", vip=vip(2, family))) == []
    assert all(answers(network, source, vip(1, family)) for source in ("node1", "b11", "b12", "client"))


@pytest.mark.needs_iptables
def test_rules_in_both_variants_of_iptables(network: Network, family: str) -> None:
    ours, other = ("legacy", "nft") if network.path_prefix else ("nft", "legacy")
    tool = f"{TOOL[family]}-{other}"
    node = network.hosts["node1"]
    node.run(tool, "-A", "FORWARD", "-p", "tcp", "--dport", "9", "-j", "DROP")
    try:
        (warning,) = warnings_of(network, web(family, "b11"))
        assert warnings_of(network, web({IPV4: IPV6, IPV6: IPV4}[family], "b11")) == []
    finally:
        node.run(tool, "-D", "FORWARD", "-p", "tcp", "--dport", "9", "-j", "DROP")
    assert f"the {other} variant" in warning
    assert f"{tool}-save" in warning
    assert warnings_of(network, web(family, "b11")) == [], ours
