# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ipvs dataplane: settings of the kernel, what is told of services that are there, and which chains are there when."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.compile import (
    Frontends,
    compile_frontends,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.plan_settings import (
    plan_settings,
    wanted_sysctls,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.problems import problems
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.readback import (
    observed_virtual_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.stages import stage_chains
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import Timeouts

NOW = Timeouts(900, 120, 300)
CONNTRACK, NODEST = "net/ipv4/vs/conntrack", "net/ipv4/vs/expire_nodest_conn"
QUIESCENT, REUSE = "net/ipv4/vs/expire_quiescent_template", "net/ipv4/vs/conn_reuse_mode"
IGNORE, ANNOUNCE = "net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce"
WEB: dict[str, Any] = {
    "name": "web",
    "vip": ["10.96.0.10", "10.96.0.9", "fd96::1"],
    "port": 80,
    "node_port": 30080,
    "scheduler": "rr",
    "backends": [
        {"address": "10.0.1.12", "port": 8080, "weight": 3},
        {"address": "10.0.1.9", "port": 8080},
        {"address": "fd00::1", "port": 8080},
    ],
}


def node(**settings: Any) -> Node:
    return parse_node({"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], **settings})


def compiled(*services: dict[str, Any], **settings: Any) -> Frontends:
    of = node(**settings)
    return compile_frontends(parse_services(services, of, problems), of)


def test_without_services_no_sysctl_is_wanted() -> None:
    assert wanted_sysctls(node(conn_reuse_mode=1), {}) == {}


@pytest.mark.parametrize(
    ("service", "settings", "more"),
    [
        ({}, {}, {NODEST: 0}),
        ({}, {"expire_nodest_conn": True}, {NODEST: 1}),
        ({}, {"conn_reuse_mode": 0}, {NODEST: 0, REUSE: 0}),
        ({"forward_method": "tunnel"}, {}, {NODEST: 0}),
        ({"forward_method": "direct"}, {}, {NODEST: 0, IGNORE: 1, ANNOUNCE: 2}),
    ],
)
def test_sysctls(service: dict[str, Any], settings: dict[str, Any], more: dict[str, int]) -> None:
    one = {"name": "a", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.1"}], **service}
    without = {"name": "b", "vip": "10.96.0.2", "port": 80}
    defaults = {"expire_nodest_conn": False, **settings}
    assert wanted_sysctls(node(**defaults), compiled(one, without)) == {CONNTRACK: 1, QUIESCENT: 1, **more}


def test_only_what_differs_and_is_there_is_changed() -> None:
    held = {CONNTRACK: 0, NODEST: 1, QUIESCENT: None}
    plan = plan_settings(node(), {CONNTRACK: 1, NODEST: 1, QUIESCENT: 1}, held, NOW)
    assert (plan.sysctls, plan.timeouts, plan.changed) == ({CONNTRACK: (0, 1)}, None, True)
    assert plan.lines(0) == {"sysctl": ["net.ipv4.vs.conntrack = 0"], "ipvsadm": []}
    assert plan.lines(1) == {"sysctl": ["net.ipv4.vs.conntrack = 1"], "ipvsadm": []}
    assert not plan_settings(node(), {CONNTRACK: 1}, {CONNTRACK: 1}, NOW).changed


def test_timeouts_that_are_not_given_stay() -> None:
    plan = plan_settings(node(tcp_timeout=1000, udp_timeout=60), {}, {}, NOW)
    assert (plan.timeouts, plan.changed) == ((NOW, Timeouts(1000, 120, 60)), True)
    assert plan.lines(0) == {"sysctl": [], "ipvsadm": ["--set 900 120 300"]}
    assert plan.lines(1) == {"sysctl": [], "ipvsadm": ["--set 1000 120 60"]}
    assert plan_settings(node(tcpfin_timeout=7), {}, {}, NOW).timeouts == (NOW, Timeouts(900, 7, 300))
    assert not plan_settings(node(tcp_timeout=900), {}, {}, NOW).changed


def test_a_drained_backend_is_told_with_weight_0() -> None:
    drained = {**WEB, "backends": [{"address": "10.0.1.9", "weight": 0}, {"address": "10.0.1.12", "weight": 3}]}
    (found,) = observed_virtual_services(compiled(drained), {})
    assert [(one.address, one.weight) for one in found.backends] == [("10.0.1.9", 0), ("10.0.1.12", 3)]


def test_a_service_is_told_once_for_all_its_virtual_services() -> None:
    held = compiled(WEB, {"name": "empty", "vip": "10.96.0.2", "external_ips": ["203.0.113.1"], "port": 81})
    endpoint = ("10.0.1.12", 8080)
    keys = [key for key, one in held.items() if one.virtual and endpoint in one.virtual.destinations]
    connections = {key: {endpoint: (number, 10 * number)} for number, key in enumerate(keys, 1)}
    count = len(keys) * (len(keys) + 1) // 2
    empty, web = observed_virtual_services(held, connections)
    assert (web.name, web.protocol, web.port, web.node_port, web.scheduler) == ("web", "tcp", 80, 30080, "rr")
    assert (web.vip, web.external_ips, web.load_balancer_ips) == (["10.96.0.9", "10.96.0.10", "fd96::1"], [], [])
    assert [tuple(one) for one in web.backends] == [
        ("10.0.1.9", 8080, 1, "masquerade", 0, 0),
        ("10.0.1.12", 8080, 3, "masquerade", count, 10 * count),
        ("fd00::1", 8080, 1, "masquerade", 0, 0),
    ]
    assert (empty.name, empty.port, empty.node_port, empty.scheduler) == ("empty", 81, None, None)
    assert (empty.vip, empty.external_ips, empty.backends) == (["10.96.0.2"], ["203.0.113.1"], [])
    assert [tuple(one) for one in empty.refusals] == [
        ("10.96.0.2", 81, "reject", "no backends"),
        ("203.0.113.1", 81, "reject", "no backends"),
    ]


def test_a_node_port_without_backends_is_refused_at_no_address_of_its_own() -> None:
    (told,) = observed_virtual_services(compiled({"name": "a", "vip": "10.96.0.1", "port": 80, "node_port": 30080}), {})
    assert [tuple(one)[:2] for one in told.refusals] == [(None, 30080), ("10.96.0.1", 80)]
    assert (told.port, told.node_port) == (80, 30080)


KEY = ("nat", "L4-IPVS")
MARK, TAKE = "-j MARK --set-xmark 0x4000/0x4000", "-d 10.96.0.1/32 -j ACCEPT"
OTHER = ("nat", "L4-OTHER")
FINAL = Desired({KEY: [MARK, TAKE], OTHER: [TAKE]}, [])


def test_traffic_is_taken_when_the_addresses_are_bound() -> None:
    found = stage_chains(Observed(), FINAL, KEY)
    assert found.whole.result.chains == {KEY: [MARK, TAKE], OTHER: [TAKE]}
    assert found.prepared.result.chains == {KEY: [MARK], OTHER: [TAKE]}
    assert found.activated.result.chains == {KEY: [MARK, TAKE], OTHER: [TAKE]}
    assert (found.prepared.changed, found.activated.changed, found.removed.changed) == (True, True, False)


def test_chains_that_take_traffic_already_change_at_once() -> None:
    found = stage_chains(Observed({KEY: [TAKE]}), FINAL, KEY)
    assert found.prepared is found.whole
    assert found.whole.changed
    assert (found.activated.changed, found.removed.changed) == (False, False)


def test_chains_without_services_go_last() -> None:
    found = stage_chains(Observed({KEY: [TAKE]}), Desired({}, []), KEY)
    assert found.removed is found.whole
    assert (found.prepared.changed, found.activated.changed) == (False, False)
