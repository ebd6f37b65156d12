# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a run asks connection tracking, and what becomes of it where the kernel has none; with fakes for the kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, Callable

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.host import (
    Change,
    Kernel,
    NoSets,
    plan_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.conntrack import (
    ConntrackError,
    NoConntrackError,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"], "local_cidrs": ["10.0.0.0/16"]})
WEB = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.1.11"}]}
DNS = {"name": "dns", "vip": "10.96.0.2", "port": 53, "protocol": "udp", "backends": [{"address": "10.0.1.11"}]}
CONNECTION = Flow("tcp", "ipv4", ("10.96.0.1", 80), ("10.0.1.11", 80), True, b"connection")
STALE = Flow("udp", "ipv4", ("10.96.0.2", 53), ("10.0.1.99", 53), True, b"stale")


class FakeTables:
    """Tables that are read as they were filled."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[str]]] = {"nat": {}, "filter": {}}

    def save(self, table: str) -> str:
        chains = self.tables[table]
        declared = [f":{name} - [0:0]" for name in chains]
        return "\n".join(declared + [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules])

    def list_chain(self, table: str, chain: str) -> list[str] | None:
        return self.tables[table].get(chain)

    def restoring(self, text: str) -> Callable[[], None]:
        return lambda: self.restore(text)

    def restore(self, text: str, test: bool = False) -> None:
        """As iptables-restore --noflush does it, for chains alone."""
        assert not test
        table: dict[str, list[str]] = {}
        for line in text.splitlines():
            words = line.split(" ", 2)
            if line.startswith("*"):
                table = self.tables[line[1:]]
            elif line.startswith(":"):
                table[words[0][1:]] = []
            elif words[0] in ("-A", "-I"):
                table.setdefault(words[1], []).append(words[2].replace("1 ", "", 1) if words[0] == "-I" else words[2])
            elif words[0] == "-D":
                table[words[1]].remove(words[2])
            elif words[0] == "-X":
                del table[words[1]]


class FakeTracking:
    """Connection tracking with these flows; without any, a kernel that lacks it."""

    def __init__(self, flows: list[Flow] | None = None) -> None:
        self.held = flows

    def probe(self) -> None:
        if self.held is None:
            raise NoConntrackError("reading it", errno.EINVAL)

    def flows(self, protocols: Iterable[str]) -> list[Flow]:
        self.probe()
        return [flow for flow in self.held or [] if flow.protocol in list(protocols)]

    def delete(self, flow: Flow) -> bool:
        assert self.held is not None
        self.held.remove(flow)
        return True


class Host:
    """A node with iptables for IPv4."""

    def __init__(self, tracking: FakeTracking) -> None:
        self.tables, self.tracking = FakeTables(), tracking

    def plan(self, *services: dict[str, Any], state: str = "present", exclusive: bool = True) -> Change:
        request = Request(state, services, exclusive, "iptables")
        return plan_services(request, NODE, Kernel({"ipv4": self.tables}, NoSets("none"), self.tracking))

    def apply(self, *services: dict[str, Any], **how: Any) -> Change:
        change = self.plan(*services, **how)
        change.apply()
        change.reconciliation.run(delete=True)
        return change

    @property
    def chains(self) -> list[str]:
        return [name for chains in self.tables.tables.values() for name in chains if name.startswith("L4-")]


def test_without_udp_services_a_kernel_without_tracking_is_no_hindrance() -> None:
    host = Host(FakeTracking(None))
    assert host.apply(WEB).changed
    assert host.apply({"name": "web"}, state="absent", exclusive=False).changed
    assert host.chains == []


def test_a_udp_service_needs_tracking_and_says_so_before_anything_is_touched() -> None:
    host = Host(FakeTracking(None))
    with pytest.raises(ConntrackError, match="nf_conntrack_netlink"):
        host.plan(WEB, DNS)
    assert host.chains == []


def test_a_removed_udp_service_is_known_by_its_rules() -> None:
    host = Host(FakeTracking([]))
    host.apply(WEB, DNS)
    host.tracking.held = [CONNECTION, STALE]
    assert host.plan(WEB).reconciliation.run(delete=False) == 1
    assert host.tracking.held == [CONNECTION, STALE]
    host.apply(WEB)
    assert host.tracking.held == [CONNECTION]


def test_services_that_a_run_does_not_name_are_left_alone() -> None:
    host = Host(FakeTracking([]))
    host.apply(WEB, DNS)
    host.tracking.held = None
    host.apply(WEB, exclusive=False)
    host.tracking.held = [STALE]
    assert host.apply(DNS, exclusive=False).reconciliation.targets
    assert host.tracking.held == []


@pytest.mark.parametrize("how", [{"state": "absent", "exclusive": False}, {"state": "present", "exclusive": True}])
def test_the_last_service_leaves_the_shared_chains_to_its_connections(how: dict[str, Any]) -> None:
    going = [{"name": "web"}] if how["state"] == "absent" else []
    host = Host(FakeTracking([CONNECTION]))
    host.apply(WEB)
    removal = host.apply(*going, **how)
    assert removal.summary.removed == ["web"]
    assert "L4-POSTROUTING" in host.chains
    assert not any(name.startswith(("L4-SVC", "L4-SEP")) for name in host.chains)
    assert not host.plan(*going, **how).changed
    host.tracking.held = [CONNECTION._replace(live=False)]
    assert host.apply(*going, **how).changed
    assert host.chains == []


def test_tearing_down_waits_for_nobody() -> None:
    host = Host(FakeTracking([CONNECTION]))
    host.apply(WEB)
    host.apply(state="absent", exclusive=True)
    assert host.chains == []


def test_a_node_that_has_nothing_of_ours_gets_nothing_for_the_connections_of_others() -> None:
    host = Host(FakeTracking([CONNECTION]))
    assert not host.apply().changed
    assert host.chains == []
