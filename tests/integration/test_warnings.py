# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vip_service warns of, each beside the traffic that it is about: a warning where it fails, none where it works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, LOCAL_CIDRS, PORT, Network, vip
from warned import answers, texts, warnings_of, web

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_facts import facts_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._node_checks.facts import chains_of_others, warnings
from lab.namespaces import Namespace, link
from lab.traffic import Servers
from module_runner import MANAGED_HOST_PYTHON, run_module_ok

pytestmark = pytest.mark.parametrize("network", ["nft"], indirect=True)
"""What is not of iptables is the same with either variant; see test_warnings_variants.py."""


@contextmanager
def sysctl(host: Namespace, name: str, value: int) -> Iterator[None]:
    before = host.sysctl(name)
    host.sysctl(name, value)
    try:
        yield
    finally:
        host.sysctl(name, before)


@contextmanager
def nft_table(host: Namespace, family: str, *chains: str) -> Iterator[None]:
    """A table of somebody else."""
    host.run("nft", "-f", "-", input=f"table {family} others {{\n" + "\n".join(chains) + "\n}\n")
    try:
        yield
    finally:
        host.run("nft", "delete", "table", family, "others")


def test_without_services_nothing_is_in_their_way(network: Network) -> None:
    with sysctl(network.hosts["node1"], "net.ipv4.ip_forward", 0):
        assert warnings_of(network) == []


@pytest.mark.parametrize(
    ("rules", "drops"),
    [
        ("policy drop; ct state established accept", True),
        ("policy drop; iifname lo accept; jump others", True),
        ("policy accept; tcp dport 1 accept; counter reject", True),
        ("policy accept; log drop", True),
        ("policy drop; ct state established accept; ct status dnat accept", False),
        ("policy accept; ct status dnat accept; drop", False),
        ("policy drop; accept", False),
        ("policy accept; tcp dport 1 drop", False),
    ],
)
def test_a_chain_of_others_that_drops_what_is_forwarded(network: Network, rules: str, drops: bool) -> None:
    forward = f"chain forward {{ type filter hook forward priority 10; {rules}\n}}"
    with nft_table(network.hosts["node1"], "inet", "chain others { \n}", forward):
        found = warnings_of(network, web(IPV4, "b11"))
        assert answers(network, "client", vip(1, IPV4)) == (not drops)
    assert ["chain forward (hook forward) of table inet others" in one for one in found] == [True] * drops, found
    if drops:
        command = found[0].rpartition("by: ")[2]
        assert command == "nft insert rule inet others forward ct status dnat accept"


def test_the_advice_on_a_chain_of_others_helps(network: Network, family: str) -> None:
    node = network.hosts["node1"]
    with nft_table(node, "inet", "chain forward { type filter hook forward priority 10; policy drop\n}"):
        (warning,) = warnings_of(network, web(family, "b11"))
        node.run(*warning.rpartition("by: ")[2].split())
        assert warnings_of(network, web(family, "b11")) == []
        assert answers(network, "client", vip(1, family))


def test_a_chain_in_small_letters_is_not_of_iptables(network: Network) -> None:
    node = network.hosts["node1"]
    network.applied([web(IPV4, "b11")])
    node.run("nft", "add chain ip filter forward { type filter hook forward priority 10; policy drop; }")
    try:
        (warning,) = warnings_of(network, web(IPV4, "b11"))
    finally:
        node.run("nft", "delete", "chain", "ip", "filter", "forward")
    assert "table ip filter" in warning


def test_a_chain_of_others_matters_only_where_service_traffic_passes(network: Network, family: str) -> None:
    other = {IPV4: "ip6", IPV6: "ip"}[family]
    passed = "ct state established accept\nmeta l4proto ipv6-icmp accept\n"
    host_input = f"chain input {{ type filter hook input priority 0; policy drop; {passed}}}"
    hooks = [host_input, "chain prerouting { type filter hook prerouting priority 0; policy accept\n}"]
    node, own = network.hosts["node1"], ADDRESSES["bridge1"][family]
    with nft_table(node, "inet", *hooks), Servers() as servers:
        assert warnings_of(network, web(family, "b11")) == []
        assert answers(network, "client", vip(1, family))
        servers.serve(node, "self", own, PORT)
        here = web(family, backends=[{"address": own, "port": PORT, "node": "node1"}])
        (warning,) = warnings_of(network, here)
        assert "chain input (hook input) of table inet others" in warning
        assert not answers(network, "client", vip(1, family))
    with nft_table(node, other, "chain forward { type filter hook forward priority 0; policy drop\n}"):
        assert warnings_of(network, web(family, "b11")) == []
    with nft_table(node, "inet", "chain output { type filter hook output priority 0; policy drop\n}"):
        (warning,) = warnings_of(network, web(family, "b11"))
        assert "chain output (hook output)" in warning
        assert not answers(network, "node1", vip(1, family))
    for hook, passed in (("prerouting", "ct state established accept"), ("postrouting", "ct direction reply accept")):
        neighbours = "meta l4proto ipv6-icmp accept\n"
        chain = f"chain {hook} {{ type filter hook {hook} priority 0; policy drop; {passed}\n{neighbours}}}"
        with nft_table(node, "inet", chain):
            (warning,) = warnings_of(network, web(family, "b11"))
            assert f"chain {hook} (hook {hook})" in warning
            assert not answers(network, "client", vip(1, family))


def test_forwarding_that_is_off(network: Network, family: str) -> None:
    name = {IPV4: "net.ipv4.ip_forward", IPV6: "net.ipv6.conf.all.forwarding"}[family]
    node = network.hosts["node1"]
    with sysctl(node, name, 0):
        (warning,) = warnings_of(network, web(family, "b11"))
        assert warning.startswith(f"{name} is 0")
        assert not answers(network, "client", vip(1, family))
        assert warnings_of(network, web({IPV4: IPV6, IPV6: IPV4}[family], "b11")) == []


def test_a_strict_reverse_path_filter_is_no_hindrance_where_routes_are_symmetric(network: Network) -> None:
    node = network.hosts["node1"]
    node.sysctl("net/ipv4/conf/all/route_localnet", 1)
    service = web(IPV4, "b11", "b12", "b21", node_port=30080)
    with sysctl(node, "net/ipv4/conf/all/rp_filter", 1):
        assert warnings_of(network, service, node={"localhost_node_ports": True}) == []
        assert all(answers(network, source, vip(1, IPV4)) for source in ("node1", "b11", "b12", "b21", "client"))
        assert all(answers(network, "node1", "127.0.0.1", 30080) for _attempt in range(6))
    node.sysctl("net/ipv4/conf/all/route_localnet", 0)


@pytest.fixture
def second_uplink(network: Network) -> Iterator[str]:
    """Between node1 and the client a second link, with a default route of its own by the link's address; a client outside."""
    node, client = network.hosts["node1"], network.hosts["client"]
    link(node, "eth1", client, "eth1")
    node.add_address("eth1", "192.0.3.1/24")
    client.add_address("eth1", "192.0.3.100/24")
    client.add_address("lo", "8.8.8.8/32")
    client.ip("route", "replace", "10.96.0.0/16", "via", "192.0.3.1")
    node.add_route("default", "via", "192.0.3.100", "table", "100")
    node.ip("rule", "add", "from", "192.0.3.1", "lookup", "100")
    yield "8.8.8.8"
    node.ip("rule", "delete", "from", "192.0.3.1", "lookup", "100")
    node.ip("link", "delete", "eth1")
    client.ip("address", "delete", "8.8.8.8/32", "dev", "lo")
    client.add_route("10.96.0.0/16", "via", ADDRESSES["node1"][IPV4])


def test_a_strict_reverse_path_filter_where_answers_leave_by_another_interface(
    network: Network, second_uplink: str
) -> None:
    node = network.hosts["node1"]
    assert warnings_of(network, web(IPV4, "b11")) == []
    assert network.ask("client", vip(1, IPV4), 80, timeout=1.5, source=second_uplink).answered == 1
    with sysctl(node, "net/ipv4/conf/eth1/rp_filter", 1):
        (warning,) = warnings_of(network, web(IPV4, "b11"))
        assert warning.startswith("net.ipv4.conf.eth1.rp_filter is 1")
        assert network.ask("client", vip(1, IPV4), 80, timeout=1.5, source=second_uplink).answered == 0
        assert warnings_of(network, web(IPV6, "b11")) == []
        node.sysctl("net/ipv4/conf/eth1/rp_filter", 2)
        assert warnings_of(network, web(IPV4, "b11")) == []
        assert network.ask("client", vip(1, IPV4), 80, timeout=1.5, source=second_uplink).answered == 1


def test_node_ports_on_localhost_without_route_localnet(network: Network) -> None:
    node = network.hosts["node1"]
    service, wish = web(IPV4, "b11", node_port=30080), {"localhost_node_ports": True}
    with sysctl(node, "net/ipv4/conf/all/route_localnet", 0):
        (warning,) = warnings_of(network, service, node=wish)
        assert warning.startswith("net.ipv4.conf.all.route_localnet is 0")
        assert not answers(network, "node1", "127.0.0.1", 30080)
        assert warnings_of(network, service) == []
        assert warnings_of(network, web(IPV4, "b11"), node=wish) == []
        with sysctl(node, "net/ipv4/conf/br0/route_localnet", 1):
            assert warnings_of(network, service, node=wish) == []
            assert answers(network, "node1", "127.0.0.1", 30080)


def test_neighbours_on_a_bridge_without_bridge_netfilter(network: Network, family: str) -> None:
    name = {IPV4: "net/bridge/bridge-nf-call-iptables", IPV6: "net/bridge/bridge-nf-call-ip6tables"}[family]
    node = network.hosts["node1"]
    with sysctl(node, name, 0):
        (warning,) = warnings_of(network, web(family, "b11"))
        assert name.rpartition("/")[2] in warning
        assert "on bridge br0" in warning
        assert not answers(network, "b12", vip(1, family))
        assert warnings_of(network, web(family, "b21")) == []
        assert warnings_of(network, web(family, "b11"), node={"local_cidrs": ["10.99.0.0/16", "fd99::/64"]}) == []
        assert answers(network, "b12", vip(1, family))
        assert warnings_of(network, web(family, "b11"), node={"masquerade_all": True}) == []
        assert answers(network, "b12", vip(1, family))
        node.ip("link", "set", "br0", "type", "bridge", "nf_call_iptables", "1", "nf_call_ip6tables", "1")
        assert warnings_of(network, web(family, "b11")) == []
        assert answers(network, "b12", vip(1, family))
        node.ip("link", "set", "br0", "type", "bridge", "nf_call_iptables", "0", "nf_call_ip6tables", "0")


def test_addresses_to_which_the_node_has_no_route(network: Network, family: str) -> None:
    node, gateway = network.hosts["node1"], ADDRESSES["client"][family]
    default = ["-6"] * (family == IPV6) + ["route"]
    many = [web(family, "b11", name=f"web{number}", vip=vip(number, family)) for number in range(1, 6)]
    node.ip(*default, "delete", "default")
    try:
        (warning,) = warnings_of(network, *many)
        assert f"no route to {', '.join(vip(number, family) for number in (1, 2, 3))} and 2 more:" in warning
        assert network.ask("node1", vip(1, family), 80).failures == {"unreachable": 1}
        assert answers(network, "client", vip(1, family))
        route = {IPV4: "10.96.0.0/30", IPV6: "fd96::/126"}[family]
        node.add_route(route, "via", gateway)
        (warning,) = warnings_of(network, *many)
        assert f"no route to {vip(4, family)}, {vip(5, family)}:" in warning
        assert answers(network, "node1", vip(1, family))
        node.ip("route", "delete", route)
    finally:
        node.ip(*default, "add", "default", "via", gateway)


def _with_conntrack(directory: Path, entries: int) -> str:
    """A host's Python that sees so many entries of 1000. The real limit is one for all namespaces."""
    for name, value in (("count", entries), ("max", 1000)):
        (directory / name).write_text(f"{value}\n")
    mounts = "".join(
        f"mount --bind {directory}/{name} /proc/sys/net/netfilter/nf_conntrack_{name}\n" for name in ("count", "max")
    )
    script = directory / f"python-{entries}"
    script.write_text(f'#!/bin/sh\nset -e\n{mounts}exec {MANAGED_HOST_PYTHON} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(("entries", "full"), [(900, False), (901, True)])
def test_connection_tracking_that_is_nearly_full(network: Network, tmp_path: Path, entries: int, full: bool) -> None:
    node_settings = {"name": "node1", "local_cidrs": LOCAL_CIDRS}
    arguments = {"services": [web(IPV4, "b11")], "exclusive": True, "node": node_settings}
    node, interpreter = network.hosts["node1"], _with_conntrack(tmp_path, entries)
    result = run_module_ok(node, "vip_service", arguments, path_prefix=network.path_prefix, interpreter=interpreter)
    found = texts(result)
    assert [one.startswith(f"connection tracking is nearly full ({entries} of 1000") for one in found] == [True] * full


def test_what_cannot_be_read_is_not_warned_of(network: Network, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nset -e\nmount -t tmpfs none /proc/sys\nexec {MANAGED_HOST_PYTHON} "$@"\n')
    script.chmod(0o755)
    arguments = {
        "services": [web(IPV4, "b11", node_port=30080)],
        "exclusive": True,
        "node": {"name": "node1", "localhost_node_ports": True},
    }
    node = network.hosts["node1"]
    result = run_module_ok(node, "vip_service", arguments, path_prefix=network.path_prefix, interpreter=str(script))
    assert texts(result) == []


def test_a_thousand_services_are_judged_with_no_more_questions_than_one(network: Network) -> None:
    services = [
        web(IPV4, "b11", name=f"web{number}", vip=f"10.96.{number // 250}.{number % 250 + 1}") for number in range(1000)
    ]
    network.applied(services)
    host = network.hosts["node1"]
    node = parse_node({"name": "node1", "addresses": [ADDRESSES["node1"][IPV4]]})

    def asked_for(judged: list[dict[str, Any]]) -> list[Sequence[str]]:
        runner = Runner(host)
        facts = facts_of(parse_services(judged, node), node)
        assert host.call(lambda: warnings(facts, (), node, runner, chains_of_others())) == []
        return runner.asked

    assert asked_for(services) == asked_for(services[:1])


BANS = """
table inet f2b-table {
  set addr-set-sshd {
    type ipv4_addr; elements = { 192.0.2.66 };
  }
  chain f2b-chain {
    type filter hook %(hook)s priority filter - 1; policy accept;
    tcp dport { 22 } ip saddr @addr-set-sshd reject with icmp port-unreachable
    meta l4proto tcp ip saddr @addr-set-sshd drop
  }
}"""
"""As fail2ban makes it."""
FIREWALLD = """
table inet firewalld {
  chain filter_IN_public {
    tcp dport 22 ct state { new, untracked } accept
  }
  chain filter_INPUT_ZONES {
    iifname "br0" goto filter_IN_public
    goto filter_IN_public
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    reject with icmpx admin-prohibited
  }
}"""


def test_bans_are_not_warned_of_and_firewalld_only_where_services_are_input(network: Network) -> None:
    host = network.hosts["node1"]
    node = parse_node({"name": "node1", "addresses": [ADDRESSES["node1"][IPV4]]})
    facts = facts_of(parse_services([web(IPV4, "b11")], node), node)

    def told(ruleset: str, at_input: bool) -> list[str]:
        host.run("nft", "-f", "-", input=ruleset)
        try:
            return host.call(lambda: warnings(facts, (), node, Runner(host), chains_of_others(), at_input))
        finally:
            for table in ("f2b-table", "firewalld"):
                host.run("nft", "delete", "table", "inet", table, check=False)

    for hook in ("forward", "input"):
        for at_input in (False, True):
            assert told(BANS % {"hook": hook}, at_input) == []
    assert told(FIREWALLD, at_input=False) == []
    (warning,) = told(FIREWALLD, at_input=True)
    assert warning.startswith("nftables: the chain filter_INPUT (hook input) of table inet firewalld drops")


class Runner:
    """Runs tools in a namespace."""

    def __init__(self, host: Namespace) -> None:
        self._host = host
        self.asked: list[Sequence[str]] = []

    def find(self, tool: str) -> str | None:
        return shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        self.asked.append(argv)
        done = self._host.run(*argv, input=stdin)
        return done.returncode, done.stdout, done.stderr
