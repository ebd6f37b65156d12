# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Somebody puts what drops in front of ours, as Docker does at each start: the next run puts ours in front again, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from nat_host import NatHost
from network import ADDRESSES, IPV4, LOCAL_CIDRS, Network, backends, vip

from module_runner import run_module_ok

RESTARTED = {
    "docker": """
        for c in DOCKER DOCKER-FORWARD DOCKER-USER DOCKER-CT; do $ipt -N $c 2>/dev/null || $ipt -F $c; done
        $ipt -A DOCKER-CT -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $ipt -A DOCKER ! -i br0 -o br0 -j DROP
        $ipt -A DOCKER-FORWARD -j DOCKER-CT
        $ipt -A DOCKER-FORWARD -o br0 -j DOCKER
        $ipt -A DOCKER-FORWARD -i br0 -j ACCEPT
        for c in DOCKER-FORWARD DOCKER-USER; do $ipt -D FORWARD -j $c 2>/dev/null || true; $ipt -I FORWARD -j $c; done""",
    "libvirt": """
        $ipt -N LIBVIRT_FWI 2>/dev/null || $ipt -F LIBVIRT_FWI
        $ipt -A LIBVIRT_FWI -d 10.0.1.0/24 -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $ipt -A LIBVIRT_FWI -o br0 -j REJECT
        $ipt -D FORWARD -j LIBVIRT_FWI 2>/dev/null || true; $ipt -I FORWARD -j LIBVIRT_FWI""",
    "firewalld": """
        $ipt -D FORWARD -j REJECT --reject-with icmp-host-prohibited 2>/dev/null || true
        $ipt -I FORWARD -j REJECT --reject-with icmp-host-prohibited
        $ipt -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT""",
}
WEB: dict[str, Any] = {"name": "web", "vip": vip(1, IPV4), "port": 80, "node_port": 30080}


@pytest.fixture
def _clean(network: Network) -> Iterator[None]:
    yield
    node = network.hosts["node1"]
    node.run(
        "sh",
        "-c",
        f"{network.iptables} -F FORWARD; for c in $({network.iptables} -S | sed -n 's/^-N //p'); do {network.iptables} -F $c; done",
    )
    node.run(
        "sh",
        "-c",
        f"for c in $({network.iptables} -S | sed -n 's/^-N //p'); do {network.iptables} -X $c || true; done",
        check=False,
    )
    network.applied([])


@pytest.mark.needs_iptables
@pytest.mark.usefixtures("_clean")
@pytest.mark.iptables_only
@pytest.mark.semantics(26)
@pytest.mark.parametrize("whose", RESTARTED)
def test_a_run_puts_ours_in_front_of_what_drops(network: Network, whose: str) -> None:
    node, web = network.hosts["node1"], {**WEB, "backends": backends("b11")}

    def restart() -> None:
        node.run("sh", "-e", "-c", f"ipt={network.iptables}\n{RESTARTED[whose]}")

    def answers() -> list[int]:
        asked = ((vip(1, IPV4), 80), (ADDRESSES["node1"][IPV4], 30080))
        return [network.ask("client", address, port, timeout=1.5).answered for address, port in asked]

    network.applied([web])
    for _time in range(2):  # the second is judged by a digest of the first
        restart()
        assert answers() == [0, 0]
        predicted = network.applied([web], check=True)
        changed = network.applied([web])
        assert "L4-FORWARD" in changed["diff"]["after"]
        assert predicted["diff"] == changed["diff"]
        assert answers() == [1, 1]
        assert not network.applied([web])["changed"]


@pytest.mark.parametrize("legacy", [False, True], ids=["nft", "legacy"])
def test_what_is_meant_for_certain_senders_stays_in_front(legacy: bool) -> None:
    with NatHost(legacy=legacy) as host:
        arguments = {"services": [{**WEB, "backends": [{"address": "10.0.0.11"}]}], "exclusive": True}
        arguments["node"] = {"name": "node1", "local_cidrs": LOCAL_CIDRS}
        run_module_ok(host.namespace, "vip_service", arguments, path_prefix=host.path_prefix)
        host.iptables("-N", "f2b-web")
        host.iptables("-A", "f2b-web", "-s", "192.0.2.66", "-j", "REJECT")
        host.iptables("-I", "FORWARD", "-j", "f2b-web")
        host.iptables("-I", "FORWARD", "-s", "198.51.100.0/24", "-j", "DROP")
        before = host.rules("FORWARD", "filter")
        assert not run_module_ok(host.namespace, "vip_service", arguments, path_prefix=host.path_prefix)["changed"]
        assert host.rules("FORWARD", "filter") == before


def test_a_chain_of_ones_own_that_is_to_be_first_is_put_in_front_of_what_drops() -> None:
    with NatHost(legacy=False) as host:
        jumps = [{"from": "FORWARD", "position": "first"}]
        chain: dict[str, Any] = {"table": "filter", "chain": "WEB", "rules": ["-i br0 -j ACCEPT"], "jumps": jumps}
        host.apply(**chain)
        for name, rule in (("harmless", "-j RETURN"), ("dropping", "-o br0 -j DROP")):
            host.iptables("-N", name)
            host.iptables("-A", name, *rule.split())
            host.iptables("-I", "FORWARD", "-j", name)
            assert host.apply(**chain)["changed"] == (name == "dropping")
        assert host.rules("FORWARD", "filter")[0] == "-j WEB"
