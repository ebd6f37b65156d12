# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IPVS with backends of other nodes behind VXLAN: as tests/integration/test_overlay.py, by modules alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from network import IPV4, IPV6
from overlay_network import BACKENDS, CIDRS, NODES, VIPS, OverlayNetwork, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._node.overlay import change_of, plan_overlay
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Settings
from module_runner import run_module_ok

LOCAL_CIDRS = ["10.0.0.0/16", "fd00:1::/64", "fd00:2::/64"]
SYSCTLS = (
    *("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.vs.conntrack"),
    *("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"),
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayNetwork]:
    with OverlayNetwork(tmp_path_factory.mktemp("controller"), apart=True) as network:
        known = [{"name": one, "address": [network.address(one, IPV4)], "cidrs": CIDRS[one]} for one in NODES]
        for name, host in network.nodes.items():
            own = {"name": name, "overlay_address": [network.address(name, IPV4)], "backend_cidrs": CIDRS[name]}
            others = [one for one in known if one["name"] != name]
            settings = Settings({**DEFAULTS, **own, "overlay": "vxlan", "overlay_nodes": others})
            host.call(lambda asked: change_of(plan_overlay(asked)).apply(), settings)
            for sysctl in SYSCTLS:
                host.sysctl(sysctl.replace(".", "/"), 1)
            node = {"name": name, "local_cidrs": LOCAL_CIDRS}
            run_module_ok(host, "vip_service", {"services": services(), "dataplane": "ipvs", "node": node})
        for name, backend in zip(NODES, BACKENDS):
            network.nodes[name].run("bridge", "link", "set", "dev", backend, "hairpin", "on")
        yield network


def test_every_machine_reaches_every_backend(nodes: OverlayNetwork, family: str) -> None:
    for machine in ("client", *NODES, *BACKENDS):
        for vip, expected in zip(VIPS[family], ({"b1"}, {"b2"}, {"b1", "b2"})):
            tally = nodes.ask(machine, vip, count=2 * len(expected))
            assert (set(tally.backends), dict(tally.failures)) == (expected, {}), (machine, vip)


def test_backends_see_who_comes_through_the_tunnel(nodes: OverlayNetwork, family: str) -> None:
    to_b2 = VIPS[family][1]
    assert nodes.ask("b1", to_b2).sources == {BACKENDS["b1"][family]}
    (seen,) = nodes.ask("client", to_b2).sources
    assert seen.startswith({IPV4: "169.254.", IPV6: "fd4c:3400:"}[family])
    (seen_of_itself,) = nodes.ask("b2", to_b2).sources
    assert seen_of_itself == {IPV4: "10.0.2.1", IPV6: "fd00:2::1"}[family]


@pytest.mark.parametrize("machine", ["client", "b1"])
def test_a_megabyte_each_way_passes(nodes: OverlayNetwork, family: str, machine: str) -> None:
    assert nodes.transfer(machine, VIPS[family][1], "b2", BACKENDS["b2"][family]) == 1 << 20
