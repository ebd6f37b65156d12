# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a run asks connection tracking, and what becomes of it where the kernel has none; with fakes for the kernel."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import NodeRun, RunError, plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeNode, FakeTracking

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"], "local_cidrs": ["10.0.0.0/16"]})
WEB = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.1.11"}]}
DNS = {"name": "dns", "vip": "10.96.0.2", "port": 53, "protocol": "udp", "backends": [{"address": "10.0.1.11"}]}
CONNECTION = Flow("tcp", "ipv4", ("10.96.0.1", 80), ("10.0.1.11", 80), True, b"connection")
STALE = Flow("udp", "ipv4", ("10.96.0.2", 53), ("10.0.1.99", 53), True, b"stale")


class Host(FakeNode):
    """A node with iptables for IPv4."""

    def plan(self, *services: dict[str, Any], state: str = "present", exclusive: bool = True) -> NodeRun:
        return plan_run(Request(state, services, exclusive, "iptables"), NODE, self)

    def apply(self, *services: dict[str, Any], **how: Any) -> NodeRun:
        run = self.plan(*services, **how)
        run.apply()
        run.clean_up()
        return run


def test_without_udp_services_a_kernel_without_tracking_is_no_hindrance() -> None:
    host = Host(FakeTracking(None))
    assert host.apply(WEB).changed
    assert host.apply({"name": "web"}, state="absent", exclusive=False).changed
    assert host.chains == []


def test_a_udp_service_needs_tracking_and_says_so_before_anything_is_touched() -> None:
    host = Host(FakeTracking(None))
    with pytest.raises(RunError, match="nf_conntrack_netlink"):
        host.plan(WEB, DNS)
    assert host.chains == []


def test_a_removed_udp_service_is_known_by_its_rules() -> None:
    host = Host(FakeTracking([]))
    host.apply(WEB, DNS)
    host.tracking.held = [CONNECTION, STALE]
    assert host.plan(WEB).cleanup.run(delete=False) == 1
    assert host.tracking.held == [CONNECTION, STALE]
    host.apply(WEB)
    assert host.tracking.held == [CONNECTION]


def test_services_that_a_run_does_not_name_are_left_alone() -> None:
    host = Host(FakeTracking([]))
    host.apply(WEB, DNS)
    host.tracking.held = None
    host.apply(WEB, exclusive=False)
    host.tracking.held = [STALE]
    assert host.apply(DNS, exclusive=False).cleanup.targets
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
