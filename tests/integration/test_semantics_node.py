# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 25 to 27: bridges, a closed FORWARD chain, and packets that conntrack calls invalid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, backends, external_ip, vip
from warned import texts


def _web(family: str, *names: str, **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family), **options}


@contextmanager
def _closed_forward(network: Network, iptables: str = "") -> Iterator[None]:
    """FORWARD drops whatever no rule accepts, in both families, but for how the ports of a bridge find each other in IPv6."""
    node = network.hosts["node1"]
    iptables = iptables or network.iptables
    tools = (iptables, iptables.replace("iptables", "ip6tables"))
    neighbours = [["FORWARD", "-p", "icmpv6", "--icmpv6-type", kind, "-j", "ACCEPT"] for kind in ("135", "136")]
    for tool in tools:
        node.run(tool, "-P", "FORWARD", "DROP")
    for rule in neighbours:
        node.run(tools[1], "-A", *rule)
    try:
        yield
    finally:
        for tool in tools:
            node.run(tool, "-P", "FORWARD", "ACCEPT")
        for rule in neighbours:
            node.run(tools[1], "-D", *rule)


@pytest.mark.semantics(25)
def test_traffic_between_ports_of_one_bridge_goes_through_a_vip(network: Network, family: str) -> None:
    network.applied([_web(family, "b11", "b12")])
    for source in ("b11", "b12"):
        tally = network.ask(source, vip(1, family), 80, count=100)
        assert tally.answered == 100, tally
        assert set(tally.backends) == {"b11", "b12"}


@pytest.mark.needs_iptables
@pytest.mark.semantics(26)
@pytest.mark.parametrize("policy", ["cluster", "local"])
def test_service_traffic_passes_a_closed_forward_chain(network: Network, family: str, policy: str) -> None:
    """Also what is not masqueraded: local sources to the VIP, and clients under an external local policy."""
    external = external_ip(1, family)
    web = _web(family, "b11", "b12", external_ips=[external], external_traffic_policy=policy)
    network.applied([web])
    with _closed_forward(network):
        for source in ("client", "b11"):
            for address in (vip(1, family), external):
                tally = network.ask(source, address, 80, count=30)
                assert tally.answered == 30, (source, address, tally)
        direct = network.ask("client", ADDRESSES["b11"][family], 8080, timeout=1.5)
        assert direct.failures == {"timeout": 1}, "only service traffic is let through"


@pytest.mark.semantics(26)
@pytest.mark.parametrize("network", ["nftables"], indirect=True, scope="module")
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_closed_forward_chain_of_iptables_is_warned_of(network: Network, family: str, variant: str) -> None:
    """No table of nftables overrules another: the advice is what lets service traffic pass, and ends the warning."""
    tool, web = network.tool(family).replace("-nft", f"-{variant}"), _web(family, "b11")
    with _closed_forward(network, f"iptables-{variant}"):
        (warning,) = texts(network.applied([web]))
        assert warning.startswith(f"{tool}: the policy of FORWARD is DROP".replace("-nft", ""))
        assert network.ask("client", vip(1, family), 80, timeout=1.5).answered == 0
        advice = warning.rpartition("by: ")[2].split()
        network.hosts["node1"].run(*advice)
        try:
            assert network.ask("client", vip(1, family), 80, count=20).answered == 20
            assert texts(network.applied([web])) == []
        finally:
            network.hosts["node1"].run(*["-D" if word == "-I" else word for word in advice])


PROBE = """
table ip probe {
    chain in {
        type filter hook prerouting priority -500;
    }
}
"""
OUT_OF_WINDOW = """
import socket, struct, sys
source, target, sport, dport = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, 20)
header = struct.pack("!HHIIBBHHH", sport, dport, 0x70000000, 0x70000000, 5 << 4, 0x12, 512, 0, 0)
words = struct.unpack("!16H", pseudo + header)
total = sum(words)
total = (total >> 16) + (total & 0xffff)
total += total >> 16
header = header[:16] + struct.pack("!H", ~total & 0xffff) + header[18:]
raw.sendto(header, (target, 0))
"""


@pytest.mark.semantics(27)
@pytest.mark.parametrize("drop_invalid", [True, False])
def test_an_invalid_packet_of_a_backend_does_not_leak_unless_allowed(network: Network, drop_invalid: bool) -> None:
    """A SYN-ACK that belongs to no connection, from a backend and from another host, which is not ours to drop."""
    client = network.hosts["client"]
    network.applied([_web(IPV4, "b11")], node={"drop_invalid": drop_invalid})
    client.run("nft", "-f", "-", input=PROBE)
    try:
        for name in ("b11", "b12"):
            source = ADDRESSES[name][IPV4]
            client.run("nft", "add", "rule", "ip", "probe", "in", "ip", "saddr", source, "tcp", "dport", "9", "counter")
            arguments = (source, ADDRESSES["client"][IPV4], "8080", "9")
            network.hosts[name].run("python3", "-c", OUT_OF_WINDOW, *arguments)
        lines = client.run("nft", "list", "chain", "ip", "probe", "in").stdout.splitlines()
    finally:
        client.run("nft", "delete", "table", "ip", "probe")
    counted = {line.split("saddr ")[1].split(" ")[0]: "packets 0" not in line for line in lines if "saddr" in line}
    assert counted == {ADDRESSES["b11"][IPV4]: not drop_invalid, ADDRESSES["b12"][IPV4]: True}
