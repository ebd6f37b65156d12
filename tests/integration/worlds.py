# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The networks of the worked scenarios: one node that can be configured like a machine, and what is around it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from difflib import unified_diff
from itertools import count
from typing import TYPE_CHECKING, Any

from nat_host import generation

from lab.hosts import Host
from lab.namespaces import Namespace, link
from lab.traffic import Servers

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from playbooks import Controller, Run

_numbers = count()

# Of Docker's shape.
RULES_OF_OTHERS = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""
NFT_RULES_OF_OTHERS = """\
table inet theirs {
    chain forward {
        type filter hook forward priority 10; policy drop;
        ct state established,related accept
        ct status dnat accept
        iifname { "br0", "eth0" } accept
    }
}
"""
TOOLS_OF_IPTABLES = "cd /usr/sbin && rm iptables* ip6tables* xtables* ipset"
# What a role may change, and all that stands where it may leave something, but what Podman has there of tests beside this one.
SNAPSHOT = r"""
for tool in iptables-save ip6tables-save; do $tool | sed '/^#/d; s/ \[[0-9:]*\]$//'; done
nft list tables | grep -w -e l4-service-proxy -e theirs
for family in ip ip6; do nft list table $family l4-service-proxy 2> /dev/null; done
cd /proc/sys/net
grep -H . ipv4/ip_forward ipv6/conf/all/forwarding ipv4/conf/all/route_localnet bridge/bridge-nf-call-ip*tables
cat /proc/sys/net/ipv4/vs/conntrack 2> /dev/null
grep -H . /sys/class/net/*/flags /sys/class/net/*/brport/hairpin_mode
find /etc -xdev -path /etc/containers -prune -o -type f -print | sort | xargs -d '\n' md5sum
find /etc /usr/local /var/lib -xdev -maxdepth 4 ! -path '/*/containers*' | sort
"""


class World:
    """A context manager. `variables` are the inventory's, `node` is where the play runs.

    has_iptables: whether it is installed there, with ipset; the rules of others are nftables' own where it is not.
    """

    variables: dict[str, Any]

    def __init__(self, has_iptables: bool = True) -> None:
        self._has_iptables = has_iptables
        self._prefix = f"l4s{os.getpid()}n{next(_numbers)}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.node = stack.enter_context(Host(f"{self._prefix}-node"))
            self.servers = stack.enter_context(Servers())
            self.set_rules_of_others()
            for name in ("ipv4.ip_forward", "bridge.bridge-nf-call-iptables", "bridge.bridge-nf-call-ip6tables"):
                self.node.sysctl(f"net.{name}", 0)
            self.build()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def build(self) -> None:
        """Wire and serve, and say what the inventory is."""
        raise NotImplementedError

    def set_rules_of_others(self) -> None:
        if not self._has_iptables:
            self.node.run("sh", "-c", TOOLS_OF_IPTABLES)
            self.node.run("nft", "-f", "-", input=NFT_RULES_OF_OTHERS)
            return
        for tool, network in (("iptables-restore", "172.17.0.0/16"), ("ip6tables-restore", "fd17::/64")):
            self.node.run(tool, input=RULES_OF_OTHERS.replace("172.17.0.0/16", network))

    def machine(self, name: str) -> Namespace:
        return self._stack.enter_context(Namespace(f"{self._prefix}-{name}"))

    def bridge(self, name: str, address: str, machines: dict[str, str]) -> dict[str, Namespace]:
        """A bridge of the node with these machines behind it, each by its address, the default route through it."""
        made = {}
        for number, (machine, backend) in enumerate(machines.items()):
            made[machine] = self.machine(machine)
            link(made[machine], "eth0", self.node, f"{name}p{number}")
            made[machine].add_address("eth0", f"{backend}/24")
        self.node.add_bridge(
            name, *(f"{name}p{number}" for number in range(len(machines))), addresses=[f"{address}/24"]
        )
        for one in made.values():
            one.add_route("default", "via", address)
        return made

    def outside(self, address: str, node_address: str, *routes: str) -> Namespace:
        """A client that is the node's way to everywhere else, and reaches these networks through the node."""
        client = self.machine("client")
        link(self.node, "eth0", client, "eth0")
        self.node.add_address("eth0", f"{node_address}/24")
        client.add_address("eth0", f"{address}/24")
        self.node.add_route("default", "via", address)
        for route in routes:
            client.add_route(route, "via", node_address)
        return client

    def snapshot(self) -> list[str]:
        """All that the play may change on the node."""
        return self.node.run("sh", "-c", SNAPSHOT).stdout.splitlines()

    def rules_of_others(self) -> list[str]:
        """The rules and chains of the node that are not ours, in their order."""
        if not self._has_iptables:
            return self.node.run("nft", "-s", "list", "table", "inet", "theirs").stdout.splitlines()
        rules = "".join(self.node.run(tool).stdout for tool in ("iptables-save", "ip6tables-save"))
        return [line for line in rules.splitlines() if "L4" not in line and not line.startswith((":", "#"))]


def differences(after: list[str], before: list[str]) -> list[str]:
    """Lines that came (+) or went (-)."""
    return [line for line in unified_diff(before, after, lineterm="", n=0) if not line.startswith(("---", "+++", "@@"))]


def assert_same_changes(check: Run, run: Run) -> None:
    """What was predicted is what was done."""
    predicted, done = check.changes, run.changes
    assert [one for one in predicted if one not in done] == [], "predicted, not done"
    assert [one for one in done if one not in predicted] == [], "done, not predicted"
    assert len(predicted) == len(done)


class Converged:
    """A world on which site.yml has been predicted, run, and run again."""

    def __init__(self, world: World, controller: Controller) -> None:
        self.world, self.controller = world, controller
        self.found, self.foreign = world.snapshot(), world.rules_of_others()
        before = generation(world.node)
        self.check = self.site(check=True)
        self.check_changed_rules = generation(world.node) != before
        self.after_check = world.snapshot()
        self.first = self.site()
        self.second = self.site()

    def site(self, **how: Any) -> Run:
        """Run site.yml with the world's variables as they are now."""
        self.controller.inventory({"node1": self.world.node}, self.world.variables)
        return self.controller.run(**how)

    def assert_as_promised(self) -> None:
        """The check has predicted the run and touched nothing, the second run changes nothing, rules of others stand."""
        assert self.first.changes
        assert_same_changes(self.check, self.first)
        assert not self.check_changed_rules
        touched = differences(self.after_check, self.found)
        assert not touched, "\n".join(touched)
        assert self.second.changes == []
        assert self.second.changed == 0
        assert self.world.rules_of_others() == self.foreign

    def assert_leaves_nothing(self) -> None:
        """With state absent the node is as it was found; that, too, is predicted and done once."""
        check = self.site(check=True, service_proxy_state="absent")
        assert_same_changes(check, self.site(service_proxy_state="absent"))
        left = differences(self.world.snapshot(), self.found)
        assert not left, "\n".join(left)
        assert self.site(service_proxy_state="absent").changed == 0
