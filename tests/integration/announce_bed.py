# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes that announce their services, with keepalived and BIRD in the foreground, to a client and a router.

lan: node1, node2, router, neighbour (a client on the segment), and two backends. Behind the router: client. The router has BIRD with ECMP.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lab.hosts import Host
from lab.namespaces import Namespace, link
from lab.traffic import Servers
from module_runner import COLLECTION
from playbooks import Controller, Run

NODES = {"node1": ("10.0.0.1", "fd00::1"), "node2": ("10.0.0.2", "fd00::2")}
ROUTER, NEIGHBOUR = ("10.0.0.254", "fd00::fe"), ("10.0.0.100", "fd00::64")
OUTER_ROUTER, CLIENT = ("198.51.100.254", "2001:db8:100::fe"), ("198.51.100.1", "2001:db8:100::1")
BACKENDS = {"first": ("10.0.0.11", "fd00::b"), "second": ("10.0.0.12", "fd00::c")}
ADDRESSES = ("203.0.113.10", "2001:db8:203::10")
LENGTHS = (24, 64)
TRAFFIC = COLLECTION / "molecule" / "shared" / "files" / "traffic.py"
KEEPALIVED_FILE = "/etc/keepalived/layer4-service-proxy.conf"
BIRD_FILE = "/etc/bird/layer4-service-proxy.conf"
PROGRAM = "/usr/local/sbin/layer4-service-proxy"
CHECK = {"interval": 1, "timeout": 1, "fall": 2, "rise": 1, "panic_threshold": None}
FLIPPED = "/run/layer4-service-proxy/flipped"
_REFUSING = """
table inet refusing {
    chain input { type filter hook input priority 0; tcp dport 8080 reject with tcp reset; }
}
"""
_ROUTER_BIRD = """\
router id 10.0.0.254;
protocol device {{ scan time 1; }}
protocol bfd {{ }}
protocol kernel {{ merge paths on; ipv4 {{ export all; }}; }}
protocol kernel {{ merge paths on; ipv6 {{ export all; }}; }}
filter learned {{
    if ((65535, 0) ~ bgp_community) then bgp_local_pref = 0;
    accept;
}}
{sessions}
"""
_SESSION = """
protocol bgp {name}_{family} {{
    local {own} as 65000;
    neighbor {peer} as 65001;
    bfd {{ min rx interval 300 ms; min tx interval 300 ms; multiplier 3; }};
    {family} {{ import filter learned; export none; }};
}}
"""


def service(name: str = "web", **more: Any) -> dict[str, Any]:
    """A service of both families with both backends, each on a node of its own."""
    backends = [
        {"address": address, "port": 8080, "node": node}
        for node, addresses in zip(NODES, BACKENDS.values())
        for address in addresses
    ]
    return {"name": name, "external_ips": list(ADDRESSES), "port": 80, "backends": backends, **more}


class AnnounceBed:
    """A context manager; announce and further variables are those of the nodes."""

    def __init__(self, directory: Path, **variables: Any) -> None:
        self.controller = Controller(directory)
        self.variables = variables
        self._stack = ExitStack()

    def __enter__(self) -> AnnounceBed:
        prefix = f"l4an{os.getpid()}"
        with self._stack as stack:
            segment, self.neighbour, self.client, *served = (
                stack.enter_context(Namespace(f"{prefix}-{name}")) for name in ("lan", "nb", "client", "b1", "b2")
            )
            self.nodes = {name: stack.enter_context(Host(f"{prefix}-{name}")) for name in NODES}
            self.router = stack.enter_context(Host(f"{prefix}-router"))
            members: list[tuple[Namespace, Sequence[str]]] = [
                *zip(self.nodes.values(), NODES.values()),
                *zip(served, BACKENDS.values()),
                (self.router, ROUTER),
                (self.neighbour, NEIGHBOUR),
            ]
            for number, (machine, addresses) in enumerate(members):
                link(machine, "eth0", segment, f"port{number}")
                machine.add_address("eth0", *(f"{one}/{length}" for one, length in zip(addresses, LENGTHS)))
            segment.add_bridge("lan", *(f"port{number}" for number in range(len(members))))
            self._wire_outside(members)
            servers = stack.enter_context(Servers())
            for (name, addresses), machine in zip(BACKENDS.items(), served):
                for address in addresses:
                    servers.serve(machine, name, address, 8080)
            self.backends = dict(zip(BACKENDS, served))
            self.inventory()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *dummy: object) -> None:
        self._stack.close()

    def _wire_outside(self, members: Sequence[tuple[Namespace, Sequence[str]]]) -> None:
        link(self.client, "eth0", self.router, "eth1")
        for machine, interface, addresses in ((self.client, "eth0", CLIENT), (self.router, "eth1", OUTER_ROUTER)):
            machine.add_address(interface, *(f"{one}/{length}" for one, length in zip(addresses, LENGTHS)))
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.router.sysctl(name, 1)
        for number, everywhere in enumerate(("default", "::/0")):
            self.client.add_route(everywhere, "via", OUTER_ROUTER[number], "dev", "eth0")
            for machine, dummy in members:
                if machine is not self.router:
                    machine.add_route(everywhere, "via", ROUTER[number], "dev", "eth0")

    def put_addresses_on_link(self) -> None:
        """Have the segment's other members look for the addresses there, as for those of its own networks."""
        for machine in (self.neighbour, self.router):
            for address, length in zip(ADDRESSES, (32, 128)):
                machine.ip("route", "add", f"{address}/{length}", "dev", "eth0")

    def inventory(self, services: Sequence[Mapping[str, Any]] | None = None, **variables: Any) -> None:
        """Write it, with these services in place of `service`."""
        self.variables.update(variables)
        given = [service()] if services is None else list(services)
        self.controller.inventory(self.nodes, {"service_proxy_services": given, **self.variables})
        text = (self.controller.directory / "hosts.yml").read_text()
        for name, host in self.nodes.items():
            address = f"\n      ansible_netns_name: {host.name}\n      service_proxy_announce_address: [{', '.join(NODES[name])}]"
            text = text.replace(f"\n      ansible_netns_name: {host.name}", address)
        (self.controller.directory / "hosts.yml").write_text(text)

    def site(self, **how: Any) -> Run:
        return self.controller.run(**how)

    def play(self, name: str, node: str, **variables: Any) -> Run:
        """Run another playbook, about one node."""
        done = self.controller.run_anyhow(COLLECTION / "playbooks" / name, False, "--limit", node, **variables)
        return self.controller.judged(done)

    def start_keepalived(self, node: str) -> None:
        self.nodes[node].start("keepalived", "--dont-fork", "--log-console")

    def start_bird(self, host: Host) -> None:
        host.run("mkdir", "-p", "/run/bird")
        host.start("bird", "-f")

    def fail(self, backend: str) -> None:
        """Have a backend refuse connections."""
        self.backends[backend].run("nft", "-f", "-", input=_REFUSING)

    def mend(self, backend: str) -> None:
        self.backends[backend].run("nft", "delete", "table", "inet", "refusing")

    def follow_checks(self) -> bool:
        """Do what units of systemd do when health checks have changed what the kernel does. Return whether they had."""
        flipped = [host for host in self.nodes.values() if host.run("rm", FLIPPED, check=False).returncode == 0]
        for host in flipped:
            host.run(PROGRAM, "boot", "announce")
        return bool(flipped)

    def start_router(self) -> None:
        """BIRD, which takes GRACEFUL_SHUTDOWN for what it means (RFC 8326, section 4.2)."""
        sessions = "".join(
            _SESSION.format(name=name, family=f"ipv{4 + 2 * number}", own=ROUTER[number], peer=addresses[number])
            for name, addresses in NODES.items()
            for number in range(2)
        )
        self.router.run("sh", "-c", "cat > /etc/bird/bird.conf", input=_ROUTER_BIRD.format(sessions=sessions))
        self.router.sysctl("net.ipv4.fib_multipath_hash_policy", 1)
        self.router.sysctl("net.ipv6.fib_multipath_hash_policy", 1)
        self.start_bird(self.router)

    def holders(self, address: str = ADDRESSES[0]) -> list[str]:
        """The nodes that have an address on an interface."""
        return [name for name, host in self.nodes.items() if f" {address}/" in host.ip("-o", "address")]

    def ways(self, address: str = ADDRESSES[0]) -> list[str]:
        """The nodes to which the router sends what is for an address."""
        number = 1 if ":" in address else 0
        shown = self.router.ip(f"-{6 if number else 4}", "route", "show", address)
        return [name for name, addresses in NODES.items() if f"via {addresses[number]} " in shown]

    def announced(self, node: str, address: str) -> str:
        """How an address is announced, as a node's command tells it."""
        traced = self.nodes[node].run(PROGRAM, "trace", "192.0.2.9", address, "80").stdout.splitlines()
        return next((line.partition("  ")[2] for line in traced if line.startswith("announced")), "")

    def read(self, node: str, path: str) -> str:
        return self.nodes[node].run("cat", path).stdout


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


class Stream:
    """New connections to an address, one each 10 ms, until it is left; when each began, and whether it was answered."""

    def __init__(self, client: Namespace, address: str) -> None:
        self._client, self._address = client, address
        self.attempts: list[tuple[float, bool]] = []

    def __enter__(self) -> Stream:
        self._process = self._client.start(sys.executable, str(TRAFFIC), "stream", self._address, "80")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.wait_for_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *dummy: object) -> None:
        self._process.terminate()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            began, *words = line.split()
            self.attempts.append((float(began), len(words) > 1))

    def wait_for_answers(self, count: int = 1) -> float:
        """Wait until so many are answered of those that begin from now on. Return when that was, as they tell it."""
        since = time.monotonic()
        wait_for(lambda: sum(answered for at, answered in self.attempts if at > since) >= count, "nothing is answered")
        return since

    @property
    def failed(self) -> list[float]:
        """When those began that were not answered."""
        return sorted(at for at, answered in self.attempts if not answered)

    @property
    def outage(self) -> float:
        """Seconds between the first and the last of those that were not answered."""
        return self.failed[-1] - self.failed[0] if self.failed else 0.0
