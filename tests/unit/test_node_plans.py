# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles plan for a node: sysctls, kernel modules, rules of backends."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import (
    backend_rules,
    kernel_modules,
    run,
    sysctls,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Settings
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.sysctls import ROUTE_LOCALNET, Recorded

FORWARD, FORWARD6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"
BRIDGED = {"net.bridge.bridge-nf-call-iptables": 1, "net.bridge.bridge-nf-call-ip6tables": 1}
OF_IPVS = {
    "net.ipv4.vs.conntrack": 1,
    "net.ipv4.vs.expire_nodest_conn": 1,
    "net.ipv4.vs.expire_quiescent_template": 1,
}
ARP = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
LIMITS = {"conntrack_max": 1000, "conntrack_tcp_timeout_established": 600, "conntrack_tcp_timeout_close_wait": 60}


def settings(**given: Any) -> Settings:
    return Settings({**DEFAULTS, **given})


# sysctls


@pytest.mark.parametrize(
    ("given", "needs", "wanted"),
    [
        ({}, {}, {FORWARD: 1}),
        ({"state": "absent", "dataplane": "ipvs"}, {"ipv6": True, "direct": True, "bridges": True}, {}),
        ({}, {"ipv6": True}, {FORWARD: 1, FORWARD6: 1}),
        ({"local_cidrs": ["10.0.0.0/16", "fd00::/64"]}, {}, {FORWARD: 1, FORWARD6: 1}),
        (
            {"overlay": "routes", "overlay_nodes": [{"name": "b", "cidrs": ["fd01::/64"]}]},
            {},
            {FORWARD: 1, FORWARD6: 1},
        ),
        ({"ipv6_forwarding": False}, {"ipv6": True}, {FORWARD: 1}),
        ({"ipv6_forwarding": True}, {}, {FORWARD: 1, FORWARD6: 1}),
        ({}, {"bridges": True}, {FORWARD: 1, **BRIDGED}),
        ({"localhost_node_ports": True}, {"direct": True}, {FORWARD: 1, ROUTE_LOCALNET: 1}),
        ({"announce": "vrrp"}, {}, {FORWARD: 1}),
        ({"dataplane": "ipvs", "announce": "bgp"}, {}, {FORWARD: 1, **OF_IPVS}),
        ({"dataplane": "ipvs", "announce": "vrrp"}, {}, {FORWARD: 1, **OF_IPVS, **ARP}),
        (
            {"dataplane": "ipvs", "conn_reuse_mode": 0, "expire_nodest_conn": False},
            {"direct": True},
            {FORWARD: 1, **OF_IPVS, "net.ipv4.vs.expire_nodest_conn": 0, "net.ipv4.vs.conn_reuse_mode": 0, **ARP},
        ),
        (LIMITS, {}, {FORWARD: 1, **{f"net.netfilter.nf_{key}": value for key, value in LIMITS.items()}}),
    ],
)
def test_sysctls_are_those_that_a_node_needs(given: Any, needs: Any, wanted: Any) -> None:
    asked = {"ipv6": False, "direct": False, "bridges": False, **needs}
    assert sysctls.wanted_sysctls(settings(**given), **asked) == wanted


def test_what_sysctls_were_found_as_is_recorded_once_and_given_back() -> None:
    wanted = {FORWARD: 1, ROUTE_LOCALNET: 1, "net.ipv4.vs.conntrack": 1}
    found = {FORWARD: 0, ROUTE_LOCALNET: 0, "net.ipv4.vs.conntrack": 0}
    first = sysctls.plan_sysctls(wanted, found, Recorded({}, {}), True)
    kept = {FORWARD: 1, "net.ipv4.vs.conntrack": 1}
    assert first == ({}, {}, Recorded(found, kept), {FORWARD: 1}, {ROUTE_LOCALNET: 1})

    second = sysctls.plan_sysctls(wanted, wanted, Recorded(found, kept), True)
    assert second == ({}, {}, Recorded(found, kept), {}, {})

    # Somebody else has changed one that is wanted, and one that is no longer wanted is at what it was found as.
    now = {FORWARD: 0, ROUTE_LOCALNET: 1, "net.ipv4.vs.conntrack": 0}
    less = sysctls.plan_sysctls({FORWARD: 1}, now, Recorded(found, kept), True)
    assert less == ({}, {ROUTE_LOCALNET: 0}, Recorded({FORWARD: 0}, {FORWARD: 1}), {FORWARD: 1}, {})

    last = sysctls.plan_sysctls({}, wanted, Recorded(found, kept), False)
    assert last == ({FORWARD: 0, "net.ipv4.vs.conntrack": 0}, {ROUTE_LOCALNET: 0}, None, {}, {})


def test_a_sysctl_that_the_kernel_has_not_yet_is_set_and_not_given_back() -> None:
    plan = sysctls.plan_sysctls({FORWARD6: 1}, {}, Recorded({"net.netfilter.nf_conntrack_max": 7}, {}), True)
    assert plan == ({}, {}, Recorded({}, {FORWARD6: 1}), {FORWARD6: 1}, {})


def test_the_file_of_sysctls_is_read_as_it_was_written() -> None:
    record = Recorded({FORWARD: 0, "net.bridge.bridge-nf-call-iptables": -1}, {FORWARD: 1})
    text = sysctls.render_record(record)
    assert text.split("\n")[1:] == [
        "# found net.bridge.bridge-nf-call-iptables=-1",
        "# found net.ipv4.ip_forward=0",
        "net.ipv4.ip_forward=1",
        "",
    ]
    assert sysctls.parse_record(text) == record
    assert sysctls.parse_record(None) == Recorded({}, {})
    assert sysctls.parse_record(" net.a=1\nnet.a = 1\n# found net.a=x\n#found net.a=1\nnet.A=1\n") == Recorded({}, {})


def test_the_diff_of_sysctls_reads_as_sysctl_prints_them() -> None:
    change = sysctls.value_change("sysctl", {FORWARD6: 1, FORWARD: 1}, {FORWARD: 0})
    assert (change.before, change.after) == (f"{FORWARD} = 0\n", f"{FORWARD} = 1\n{FORWARD6} = 1\n")
    assert not sysctls.value_change("sysctl", {}, {FORWARD: 0}).changed


# kernel modules


@pytest.mark.parametrize(
    ("given", "needs", "wanted"),
    [
        ({}, {"schedulers": ["wrr"]}, []),
        ({"state": "absent", "dataplane": "ipvs", **LIMITS}, {"schedulers": ["wrr"], "bridges": True}, []),
        ({}, {"bridges": True}, ["br_netfilter"]),
        ({"dataplane": "ipvs"}, {"schedulers": ["mh", "wrr"]}, ["ip_vs", "ip_vs_mh", "ip_vs_wrr", "nf_conntrack"]),
        ({"dataplane": "nftables", "flow_offload": ["eth0"]}, {}, ["nf_flow_table"]),
        ({"dataplane": "iptables", "flow_offload": ["eth0"]}, {}, []),
        ({"overlay": "vxlan"}, {}, ["vxlan"]),
        ({"overlay": "routes"}, {}, []),
        *(({key: value}, {}, ["nf_conntrack"]) for key, value in LIMITS.items()),
    ],
)
def test_modules_are_those_that_a_node_needs(given: Any, needs: Any, wanted: list[str]) -> None:
    assert (
        sorted(kernel_modules.wanted_modules(settings(**given), **{"schedulers": [], "bridges": False, **needs}))
        == wanted
    )


def test_a_kernel_without_a_module_is_refused_and_told_what_needs_it() -> None:
    kernel_modules.refuse_unavailable(kernel_modules.Held(["vxlan"], [], True), "node1")
    with pytest.raises(NodeError) as refused:
        kernel_modules.refuse_unavailable(kernel_modules.Held([], ["ip_vs", "ip_vs_mh"], True), "node1")
    assert str(refused.value) == (
        'The kernel of node1 has no ip_vs, ip_vs_mh, which service_proxy_dataplane "ipvs" needs: neither built in nor a module '
        'that "modprobe ip_vs" can load.'
    )
    with pytest.raises(NodeError, match=r"^The kernel of node1 has no vxlan: neither"):
        kernel_modules.refuse_unavailable(kernel_modules.Held([], ["vxlan"], True), "node1")


# rules of backends


def test_backends_are_masqueraded_to_elsewhere_and_to_themselves() -> None:
    asked = settings(local_cidrs=["10.0.0.0/8"], backend_cidrs=["10.0.7.0/24", "FD00::/64"])
    nat, accepts, nat6, accepts6 = backend_rules.chain_requests(asked, ["10.0.7.2", "fd00::2"])
    assert nat["rules"] == [
        '-s 10.0.7.2/32 -d 10.0.7.2/32 -m comment --comment "to itself" -j MASQUERADE --random-fully',
        '-d 10.0.0.0/8 -m comment --comment "not elsewhere" -j RETURN',
        '-d 10.0.7.0/24 -m comment --comment "not elsewhere" -j RETURN',
        '-s 10.0.7.0/24 ! -d 224.0.0.0/4 -m comment --comment "to elsewhere" -j MASQUERADE --random-fully',
    ]
    assert nat6["rules"] == [
        '-s fd00::2/128 -d fd00::2/128 -m comment --comment "to itself" -j MASQUERADE --random-fully',
        '-d fd00::/64 -m comment --comment "not elsewhere" -j RETURN',
        '-s fd00::/64 ! -d ff00::/8 -m comment --comment "to elsewhere" -j MASQUERADE --random-fully',
    ]
    assert accepts["rules"] == [
        '-s 10.0.7.0/24 -m comment --comment "from backends" -j ACCEPT',
        '-d 10.0.7.0/24 -m comment --comment "to backends" -j ACCEPT',
    ]
    hooks = [(one["table"], one["jumps"][0]["from"], one["jumps"][0]["position"]) for one in (nat, accepts)]
    assert hooks == [("nat", "POSTROUTING", "last"), ("filter", "FORWARD", "first")]
    assert [one["state"] for one in (nat, accepts, nat6, accepts6)] == ["present"] * 4


def test_ipvs_has_the_addresses_of_backends_in_a_set_of_its_own() -> None:
    asked = settings(dataplane="ipvs", backend_cidrs=["10.0.7.0/24"])
    assert not [
        one
        for request in backend_rules.chain_requests(asked, ["10.0.7.2"])
        for one in request["rules"]
        if "itself" in one
    ]


def test_a_family_without_networks_of_backends_has_no_chains() -> None:
    states = [one["state"] for one in backend_rules.chain_requests(settings(local_cidrs=["10.0.0.0/8"]), ["fd00::2"])]
    assert states == ["present", "present", "absent", "absent"]
    absent = settings(state="absent", backend_cidrs=["10.0.7.0/24"])
    assert {one["state"] for one in backend_rules.chain_requests(absent, [])} == {"absent"}


# flow tables


@pytest.mark.parametrize(("overlay", "refused"), [("vxlan", False), ("routes", True), ("none", True)])
def test_the_device_of_vxlan_comes_with_the_run_and_may_be_of_the_flow_table(overlay: str, refused: bool) -> None:
    given = settings(
        dataplane="nftables", flow_offload=["eth0", "l4-vxlan0"], overlay=overlay, state="present", name="node1"
    )
    state: Any = SimpleNamespace(
        settings=given,
        held_given=None,
        services=[{}],
        parts=["proxy"],
        in_iptables=False,
        links=SimpleNamespace(names=lambda: ["eth0", "lo"]),
    )
    with (
        pytest.raises(NodeError, match="node1 has no such device: must be one of eth0, lo")
        if refused
        else nullcontext()
    ):
        run._refuse_missing_devices(state)
