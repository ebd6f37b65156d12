# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only IPVS does: addresses on a device, other ports there, other ways to forward; and what it does differently."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, external_ip, vip

from lab.traffic import LongLivedConnection, Servers

NODE = ("node1", "bridge1")


def _web(*names: str, family: str = IPV4, **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family), **options}


def _own(family: str) -> set[str]:
    return {ADDRESSES[name][family] for name in NODE}


@pytest.mark.semantics(28)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_nodes_daemons_are_not_exposed_on_a_vip(network: Network, family: str, protocol: str) -> None:
    """A daemon that listens on every address: reached at the node's own, refused at once at the VIP."""
    everywhere = {IPV4: "0.0.0.0", IPV6: "::"}[family]
    with Servers() as servers:
        servers.serve(network.hosts["node1"], "daemon", everywhere, 22, protocol)
        network.applied([_web("b11", family=family)])
        for source, own_address in (("client", "node1"), ("b11", "bridge1"), ("node1", "node1")):
            own = network.ask(source, ADDRESSES[own_address][family], 22, protocol, count=2)
            assert set(own.backends) == {"daemon"}, own
            at_vip = network.ask(source, vip(1, family), 22, protocol, count=2)
            assert at_vip.answered == 0
            assert set(at_vip.failures) == {"refused"} or (source, protocol) == ("node1", "udp"), at_vip


def test_a_vip_answers_to_ping(network: Network, family: str) -> None:
    network.applied([_web("b11", family=family)])
    network.hosts["client"].run("ping", "-c", "1", "-W", "5", vip(1, family))


@pytest.mark.semantics(1)
@pytest.mark.semantics(11)
def test_sctp_associations_are_led_to_backends(network: Network, family: str) -> None:
    with Servers() as servers:
        for name in ("b11", "b12"):
            servers.serve(network.hosts[name], name, ADDRESSES[name][family], 9000, "sctp")
        web = _web(family=family, protocol="sctp", scheduler="rr")
        network.applied([{**web, "backends": backends("b11", "b12", family=family, port=9000)}])
        tally = network.ask("client", vip(1, family), 80, "sctp", count=10)
    assert tally.backends == {"b11": 5, "b12": 5}, tally
    assert tally.sources <= _own(family)


@pytest.mark.parametrize("method", ["direct", "tunnel"])
def test_packets_can_be_handed_on_as_they_are(network: Network, method: str) -> None:
    """The backend, here the other node, has the address itself, and answers past the node, to the client's own address."""
    backend, address = network.hosts["node2"], vip(5, IPV4)
    backend.add_address("lo", f"{address}/32")
    if method == "tunnel":
        subprocess.run(["modprobe", "ipip"], check=True)
        backend.ip("link", "set", "tunl0", "up")
        for interface in ("all", "tunl0"):
            backend.sysctl(f"net/ipv4/conf/{interface}/rp_filter", 0)
    try:
        with Servers() as servers:
            servers.serve(backend, "node2", address, 8080)
            web = {"name": "web", "vip": address, "port": 8080, "forward_method": method}
            network.applied([{**web, "backends": [{"address": ADDRESSES["node2"][IPV4]}]}], node={"local_cidrs": []})
            tally = network.ask("client", address, 8080, count=5)
        assert tally.answers == {("node2", ADDRESSES["client"][IPV4]): 5}, tally
    finally:
        backend.ip("address", "delete", f"{address}/32", "dev", "lo")
        if method == "tunnel":
            backend.ip("link", "set", "tunl0", "down")
        for name in ("arp_ignore", "arp_announce"):
            network.hosts["node1"].sysctl(f"net/ipv4/conf/all/{name}", 0)


class TestDifferences:
    """The lines of the semantics that IPVS does not keep, as the table in docs/semantics.md says."""

    @pytest.mark.semantics(8)
    def test_an_external_local_policy_knows_no_exemption(self, network: Network, family: str) -> None:
        web = _web("b12", "b21", family=family, external_traffic_policy="local", node_port=30080)
        external = external_ip(1, family)
        network.applied([{**web, "external_ips": [external]}])
        for address, port in ((external, 80), (ADDRESSES["node1"][family], 30080)):
            for source in ("b11", "node1", "client"):
                tally = network.ask(source, address, port, count=10)
                assert set(tally.backends) == {"b12"}, (source, tally)

    @pytest.mark.semantics(8)
    @pytest.mark.semantics(9)
    def test_an_external_local_policy_falls_back_to_remote_backends(self, network: Network, family: str) -> None:
        web = _web("b21", "b22", family=family, external_traffic_policy="local", node_port=30080)
        network.applied([web])
        for source in ("b11", "node1", "client"):
            tally = network.ask(source, ADDRESSES["node1"][family], 30080, count=10)
            assert set(tally.backends) == {"b21", "b22"}, (source, tally)
            assert tally.sources <= _own(family)

    @pytest.mark.semantics(9)
    def test_an_internal_local_policy_without_local_backends_rejects(self, network: Network, family: str) -> None:
        network.applied([_web("b21", family=family, internal_traffic_policy="local")])
        for source in ("client", "b11", "node1"):
            assert network.ask(source, vip(1, family), 80, count=3).failures == {"refused": 3}

    @pytest.mark.semantics(18)
    def test_the_connections_of_a_removed_service_end(self, network: Network) -> None:
        with Servers() as servers:
            servers.serve(network.hosts["b11"], "steady", ADDRESSES["b11"][IPV4], 9000, keep_open=True)
            network.applied([{**_web(), "backends": backends("b11", port=9000)}])
            with LongLivedConnection(network.hosts["client"], vip(1, IPV4), 80, timeout=3) as connection:
                network.applied([])
                with pytest.raises(OSError):
                    connection.ask()

    @pytest.mark.semantics(4)
    def test_other_ports_of_an_external_address_are_rejected(self, network: Network, family: str) -> None:
        external = external_ip(1, family)
        network.applied([_web("b11", family=family, external_ips=[external])])
        assert network.ask("client", external, 22, count=3).failures == {"refused": 3}

    @pytest.mark.semantics(14)
    def test_node_ports_on_localhost_are_refused(self, network: Network) -> None:
        refused = network.apply([_web("b11", node_port=30080)], node={"localhost_node_ports": True})
        assert refused["failed"]
        assert "localhost_node_ports is true: must be false with dataplane ipvs" in refused["msg"]


def test_service_traffic_passes_closed_input_forward_and_output_chains(network: Network, family: str) -> None:
    node = network.hosts["node1"]
    tool = {IPV4: "iptables", IPV6: "ip6tables"}[family]
    network.applied([_web("b11", family=family)])
    chains = ("INPUT", "FORWARD", "OUTPUT")
    discovery = [["-A", chain, "-p", "ipv6-icmp", "-j", "ACCEPT"] for chain in chains] if family == IPV6 else []
    try:
        for rule in discovery:
            node.run(tool, *rule)
        for chain in chains:
            node.run(tool, "-P", chain, "DROP")
        assert network.ask("client", vip(1, family), 80, count=5).answered == 5
        assert network.ask("b12", vip(1, family), 80, count=5).answered == 5
    finally:
        for chain in chains:
            node.run(tool, "-P", chain, "ACCEPT")
        for rule in discovery:
            node.run(tool, "-D", *rule[1:])
