# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role node sets the sysctls that its README documents, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from worlds import World

from playbooks import Controller

COUNTERS = ("net.netfilter.nf_conntrack_count",)
ASKED_FOR = {"net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.route_localnet"}
# What the kernel itself changes with ip_forward and net.ipv6.conf.all.forwarding (inet_forward_change, addrconf_fixup_forwarding).
FOLLOWS = re.compile(r"net\.ipv[46]\.conf\.(?!all\.).*\.forwarding|net\.ipv4\.conf\.all\.(forwarding|accept_redirects)")
BRIDGED = {f"net.bridge.bridge-nf-call-{tool}" for tool in ("iptables", "ip6tables")}


class Bridged(World):
    """A node with a bridge, and a service that asks for every sysctl of the dataplane iptables."""

    def build(self) -> None:
        self.bridge("br0", "10.0.0.1", {"b1": "10.0.0.11"})
        backends = [{"address": "10.0.0.11", "port": 8080}]
        service = {"name": "web", "vip": ["10.9.9.9", "fd09::9"], "port": 80, "node_port": 30080, "backends": backends}
        self.variables = {
            "service_proxy_local_cidrs": ["10.0.0.0/24"],
            "service_proxy_localhost_node_ports": True,
            "service_proxy_services": [service],
        }


def sysctls(world: World) -> dict[str, str]:
    """Return the network settings of the node, by name."""
    lines = world.node.run("sysctl", "--all", "--pattern", r"^net\.").stdout.splitlines()
    pairs = (line.split(" = ", 1) for line in lines if " = " in line)
    return {name: value for name, value in pairs if not name.startswith(COUNTERS)}


@pytest.mark.semantics(24)
def test_a_node_forwards_and_no_other_sysctl_changes(tmp_path: Path) -> None:
    with Bridged() as world:
        controller = Controller(tmp_path)
        controller.inventory({"node1": world.node}, world.variables)
        before = sysctls(world)
        controller.run()
        after = sysctls(world)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert {name for name in changed if not FOLLOWS.fullmatch(name)} - BRIDGED == {*ASKED_FOR, "net.ipv4.ip_forward"}
    assert {after[name] for name in ("net.ipv4.ip_forward", *ASKED_FOR, *BRIDGED)} == {"1"}
