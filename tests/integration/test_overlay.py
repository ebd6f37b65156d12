# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backends of other nodes, reached by routes and through VXLAN, on three nodes that site.yml has made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from network import IPV4, IPV6
from overlay_network import BACKENDS, CIDRS, CLIENT, NODES, PORT, VIPS, OverlayNetwork
from worlds import assert_same_changes

from playbooks import Run

MTU = {"routes": 1500, "vxlan-ipv4": 1450, "vxlan-ipv6": 1430}


class Converged(NamedTuple):
    """Nodes on which site.yml has been predicted, run, and run again."""

    network: OverlayNetwork
    way: str
    """routes, or vxlan and the family that carries it"""
    routes_found: dict[str, str]
    """By node: those of others."""
    check: Run
    first: Run
    second: Run

    @property
    def mode(self) -> str:
        return self.way.partition("-")[0]


@pytest.fixture(scope="module", params=list(MTU))
def converged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    way = request.param
    mode, _dash, family = way.partition("-")
    with OverlayNetwork(tmp_path_factory.mktemp("controller"), apart=mode == "vxlan") as network:
        dataplane = "nftables" if family == IPV6 else "iptables"
        network.inventory(mode, family or IPV4, service_proxy_dataplane=dataplane)
        found = {node: network.routes_of_others(node) for node in NODES}
        runs = network.controller.run(check=True), network.controller.run(), network.controller.run()
        yield Converged(network, way, found, *runs)


@pytest.fixture
def nodes(converged: Converged) -> OverlayNetwork:
    return converged.network


def test_the_run_is_predicted_and_once_is_enough(converged: Converged) -> None:
    assert_same_changes(converged.check, converged.first)
    assert converged.second.changes == []


def test_routes_of_others_stay_as_they_are(converged: Converged) -> None:
    for node in NODES:
        assert converged.network.routes_of_others(node) == converged.routes_found[node]


def test_each_node_leads_to_the_networks_of_the_others(converged: Converged) -> None:
    for node in NODES:
        held = "\n".join(converged.network.held(node))
        others = [cidr for other in NODES if other != node for cidr in CIDRS[other]]
        assert [cidr for cidr in others if f"{cidr} via" in held] == others
        assert [cidr for cidr in CIDRS[node] if cidr in held] == []


def test_a_trace_tells_by_which_link_a_backend_is_reached(converged: Converged, family: str) -> None:
    link = "l4-vxlan0" if converged.mode == "vxlan" else "eth0"
    for vip, through in zip(VIPS[family], ("br0", link)):
        command = ["/usr/local/sbin/layer4-service-proxy", "trace", CLIENT[family], vip, str(PORT)]
        traced = converged.network.nodes["node1"].run(*command).stdout.splitlines()
        assert [line.rpartition("  ")[2] for line in traced if line.startswith("backend")] == [f"through {through}"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_machine_reaches_every_backend_through_services(
    nodes: OverlayNetwork, family: str, protocol: str
) -> None:
    for machine in ("client", *NODES, *BACKENDS):
        for vip, expected in zip(VIPS[family], ({"b1"}, {"b2"}, {"b1", "b2"})):
            tally = nodes.ask(machine, vip, protocol, count=1 if len(expected) == 1 else 24)
            assert (set(tally.backends), dict(tally.failures)) == (expected, {}), (machine, vip)


def test_a_backend_on_another_node_sees_who_comes(converged: Converged, family: str) -> None:
    """Backends come with their own address, all others with that of the node that proxies, which the answer comes back to."""
    network = converged.network
    _to_b1, to_b2, _to_both = VIPS[family]
    assert network.ask("b1", to_b2).sources == {BACKENDS["b1"][family]}
    (seen,) = network.ask("client", to_b2).sources
    if converged.mode == "routes":
        assert seen == network.address("node1", family)
    else:
        assert seen.startswith({IPV4: "169.254.", IPV6: "fd4c:3400:"}[family])
    (seen_of_itself,) = network.ask("b2", to_b2).sources
    assert seen_of_itself == {IPV4: "10.0.2.1", IPV6: "fd00:2::1"}[family]


def test_backends_reach_each_other_without_a_service(nodes: OverlayNetwork, family: str) -> None:
    tally = nodes.ask("b1", BACKENDS["b2"][family])
    assert tally.sources == {BACKENDS["b1"][family]}


@pytest.mark.parametrize("machine", ["client", "b1", "node3"])
def test_a_megabyte_each_way_passes(nodes: OverlayNetwork, family: str, machine: str) -> None:
    assert nodes.transfer(machine, VIPS[family][1], "b2", BACKENDS["b2"][family]) == 1 << 20


def test_the_mtu_leaves_room_for_the_headers(converged: Converged) -> None:
    network, mtu = converged.network, MTU[converged.way]
    for family, headers in ((IPV4, 28), (IPV6, 48)):
        argv = ["ping", "-M", "do", "-c", "1", "-W", "5", BACKENDS["b2"][family], "-s"]
        fits = network.nodes["node1"].run(*argv, str(mtu - headers), check=False)
        too_large = network.nodes["node1"].run(*argv, str(mtu - headers + 1), check=False)
        assert (fits.returncode, too_large.returncode != 0) == (0, True), fits.stdout + fits.stderr
    warned = [warning for one in converged.first.results for warning in one[2].get("warnings", ())]
    told = [line for line in warned if f"l4-vxlan0 {mtu}: a backend that does not heed ICMP" in line]
    assert bool(told) == (converged.mode == "vxlan"), warned
