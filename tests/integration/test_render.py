# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the filter render says without a node is what `vip_service` does on one."""

from __future__ import annotations

from typing import Any

import pytest
from matrix import FAMILIES, IPV4, Kind
from matrix import node as node_of
from network import Network

from ansible_collections.layer4.service_proxy.plugins.filter.render import render


def _services() -> list[dict[str, Any]]:
    kinds = [
        Kind(family, internal, external, local, remote, ranges)
        for family in FAMILIES
        for internal, external, local, remote, ranges in (
            ("cluster", "cluster", "ready", "ready", "everyone"),
            ("local", "local", "draining", "ready", "inside"),
            ("local", "local", "none", "mixed", "outside"),
            ("cluster", "local", "idle", "none", "other family"),
        )
    ]
    services = [kind.service(number) for number, kind in enumerate(kinds, 1)]
    services[0]["session_affinity"] = "client_ip"
    return services


@pytest.mark.needs_iptables
def test_render_is_the_diff_of_a_first_run(network: Network) -> None:
    node, services = {**node_of("usual"), **network.node}, _services()
    predicted = network.apply(services, node=node, check=True)
    assert predicted["diff"]["after"] == render(services, node=node)


@pytest.mark.needs_iptables
def test_what_is_rendered_can_be_restored_and_is_then_what_the_module_wants(network: Network) -> None:
    node, services = {**node_of("usual"), **network.node}, _services()[1:]
    host = network.hosts["node1"]
    for family in FAMILIES:
        tool = network.iptables if family == IPV4 else network.iptables.replace("iptables", "ip6tables")
        host.run(tool + "-restore", "--noflush", input=render(services, node=node, ip_version=family))
    assert network.applied(services, node=node)["changed"] is False
