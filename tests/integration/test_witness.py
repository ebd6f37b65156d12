# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pyroute2 finds in the kernel what the modules say that they have put there: sets, and connection tracking without old flows."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from set_host import SetHost
from witness import held_flows, held_sets

from lab.namespaces import Namespace
from module_runner import run_module_ok

NODE = {"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24", "fd00:1::/64"]}
CLIENT = {"ipv4": "198.51.100.9", "ipv6": "2001:db8:9::9"}


@pytest.fixture
def host() -> Iterator[SetHost]:
    with SetHost() as made:
        yield made


@pytest.fixture
def node() -> Iterator[Namespace]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    with Namespace(f"l4wit{os.getpid()}{worker}") as made:
        yield made


@pytest.mark.parametrize(
    ("set_type", "family", "given", "elements"),
    [
        ("hash:ip", "ipv4", ["10.0.0.4-10.0.0.5"], ["10.0.0.4", "10.0.0.5"]),
        ("hash:net", "ipv6", ["fd00::/16", "2001:db8::1"], ["2001:db8::1", "fd00::/16"]),
        ("hash:ip,port", "ipv4", ["10.0.0.1,sctp:7"], ["10.0.0.1,sctp:7"]),
        ("hash:net,port", "ipv6", ["fd00::/8,udp:53"], ["fd00::/8,udp:53"]),
        ("hash:ip,port,ip", "ipv4", ["10.0.0.1,8080,10.0.0.2"], ["10.0.0.1,tcp:8080,10.0.0.2"]),
        ("hash:ip,port,net", "ipv6", ["fd00::1,tcp:80,fd01::/64"], ["fd00::1,tcp:80,fd01::/64"]),
    ],
)
def test_entries_of_sets(host: SetHost, set_type: str, family: str, given: list[str], elements: list[str]) -> None:
    host.apply(set="wit", type=set_type, family=family, entries=given)
    assert held_sets(host.namespace) == {"wit": (set_type, elements)}
    host.apply(set="wit", entries=given, state="absent")
    assert held_sets(host.namespace) == {"wit": (set_type, [])}


def test_sets_of_session_affinity(node: Namespace) -> None:
    """The diff's lines of ipset are the sets that are there."""
    backends = [{"address": f"10.0.0.{number}", "port": 8080} for number in (1, 2)]
    web = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": backends, "session_affinity": "client_ip"}
    result = run_module_ok(node, "vip_service", {"services": [web], "node": NODE})
    created = [line.split() for line in result["diff"]["after"].splitlines() if line.startswith("create ")]
    assert len(created) == 2
    assert held_sets(node) == {words[1]: (words[2], []) for words in created}
    run_module_ok(node, "vip_service", {"services": [], "node": NODE, "state": "absent", "exclusive": True})
    assert held_sets(node) == {}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_flows_to_a_backend_that_is_gone(node: Namespace, family: str) -> None:
    vip, old, new = {
        "ipv4": ("10.96.0.1", "10.0.0.1", "10.0.0.2"),
        "ipv6": ("fd00:96::1", "fd00:1::1", "fd00:1::2"),
    }[family]
    service: dict[str, Any] = {"name": "dns", "vip": vip, "port": 53, "protocol": "udp"}

    def apply(*addresses: str) -> dict[str, Any]:
        backends = [{"address": address, "port": 5353} for address in addresses]
        return run_module_ok(node, "vip_service", {"services": [{**service, "backends": backends}], "node": NODE})

    apply(old, new)
    for source_port, backend in ((4001, old), (4002, new), (4003, old)):
        original = f"-p udp -s {CLIENT[family]} -d {vip} --sport {source_port} --dport 53"
        reply = f"-r {backend} -q {CLIENT[family]} --reply-port-src 5353 --reply-port-dst {source_port}"
        node.run("conntrack", "-I", *original.split(), *reply.split(), "-t", "300")
    af = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}[family]
    assert held_flows(node, af) == {("udp", vip, 53, old), ("udp", vip, 53, new)}
    assert apply(new)["conntrack_deleted"] == 2
    assert held_flows(node, af) == {("udp", vip, 53, new)}
