# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What services become in IPVS, and what is read back of it; the kernel's view is in tests/virtual."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.compile import (
    Frontend,
    Frontends,
    bound_addresses,
    compile_frontends,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.ownership import (
    claim_of,
    foreign_services,
    held_frontends,
    merged,
    summarise,
    virtual_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.problems import problems
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.rules import (
    ipvs_chains,
    wanted_chains,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.sets import (
    recorded_frontends,
    wanted_sets,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.conflicts import Claim
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired
from ansible_collections.layer4.service_proxy.tests.unit.golden_ipvs import GOLDEN, golden_text

NODE, NODE6, VIP, VIP6, OTHER = "192.0.2.1", "2001:db8::1", "10.96.0.1", "fd96::1", "10.96.0.2"
EXTERNAL, BALANCER = "203.0.113.1", "198.51.100.1"
HERE, THERE = {"address": "10.0.1.11", "node": "node1"}, {"address": "10.0.2.11", "node": "node2"}
WEB: dict[str, Any] = {"name": "web", "vip": VIP, "port": 8080, "backends": [HERE, THERE]}


def _node(**settings: Any) -> Node:
    return parse_node({"name": "node1", "addresses": [NODE, NODE6], **settings})


def _compiled(*services: dict[str, Any], **settings: Any) -> Frontends:
    node = _node(**settings)
    return compile_frontends(parse_services(services, node, problems), node)


def _only(*services: dict[str, Any], **settings: Any) -> Frontend:
    (found,) = _compiled(*services, **settings).values()
    return found


def _weights(frontend: Frontend) -> dict[str, int]:
    return {one.address: one.weight for one in frontend.virtual.destinations.values()} if frontend.virtual else {}


def _elements(frontends: Frontends, name: str, **settings: Any) -> list[str]:
    return list(wanted_sets(frontends, _node(**settings))[name].entries)


def _errors(service: dict[str, Any], **settings: Any) -> list[str]:
    with pytest.raises(InvalidServices) as caught:
        _compiled({**WEB, **service}, **settings)
    return caught.value.problems


def test_every_address_is_a_virtual_service_of_its_own() -> None:
    service = {**WEB, "vip": [VIP, VIP6], "external_ips": EXTERNAL, "load_balancer_ips": BALANCER, "node_port": 30080}
    found = [(key.address, key.port, one.kind) for key, one in _compiled(service).items()]
    assert found == [
        (VIP, 8080, "vip"),
        (VIP6, 8080, "vip"),
        (EXTERNAL, 8080, "external ip"),
        (BALANCER, 8080, "load balancer"),
        (NODE, 30080, "node port"),
        (NODE6, 30080, "node port"),
    ]


def test_node_ports_are_on_the_addresses_inside_the_given_networks() -> None:
    found = _compiled({**WEB, "node_port": 30080}, node_port_addresses=["192.0.2.0/24"])
    assert [key.address for key, one in found.items() if one.kind == "node port"] == [NODE]


def test_backends_of_weight_0_and_terminating_ones_keep_what_they_have() -> None:
    weightless = {"address": "10.0.1.12", "weight": 0}
    leaving = {"address": "10.0.1.13", "ready": False, "serving": True, "terminating": True}
    dead = {"address": "10.0.1.14", "ready": False}
    found = _only({**WEB, "backends": [HERE, weightless, leaving, dead]})
    assert _weights(found) == {"10.0.1.11": 1, "10.0.1.12": 0, "10.0.1.13": 0}
    assert not found.rejects


def test_without_ready_backends_those_that_still_serve_are_used() -> None:
    leaving = {"address": "10.0.1.13", "ready": False, "serving": True, "terminating": True, "weight": 3}
    assert _weights(_only({**WEB, "backends": [leaving]})) == {"10.0.1.13": 3}


def test_a_service_without_backends_rejects_and_is_nothing_in_ipvs() -> None:
    found = _compiled({**WEB, "backends": []})
    assert virtual_services(found) == {}
    assert _elements(found, "L4-REJECT") == _elements(found, "L4-VIP") == [VIP + ",tcp:8080"]


def test_a_service_whose_backends_are_all_of_weight_0_rejects_and_keeps_connections() -> None:
    found = _only({**WEB, "backends": [{**HERE, "weight": 0}]})
    assert found.rejects
    assert _weights(found) == {"10.0.1.11": 0}


def test_a_local_internal_policy_has_the_backends_of_this_node_only() -> None:
    assert _weights(_only({**WEB, "internal_traffic_policy": "local"})) == {"10.0.1.11": 1}
    remote = _only({**WEB, "internal_traffic_policy": "local", "backends": [THERE]})
    assert remote.rejects


@pytest.mark.parametrize(
    ("backends", "weights", "masquerade"),
    [([HERE, THERE], {"10.0.1.11": 1}, "local"), ([THERE], {"10.0.2.11": 1}, "external")],
)
def test_a_local_external_policy_falls_back_to_remote_backends(
    backends: list[dict[str, Any]], weights: dict[str, int], masquerade: str
) -> None:
    service = {**WEB, "vip": [], "external_ips": EXTERNAL, "external_traffic_policy": "local", "backends": backends}
    found = _only(service)
    assert (_weights(found), found.masquerade, found.rejects) == (weights, masquerade, False)


def test_affinity_is_persistence_of_each_client() -> None:
    found = _compiled({**WEB, "vip": [VIP, VIP6], "session_affinity": "client_ip", "session_affinity_timeout": 60})
    v4 = found[min(found)].virtual
    assert v4 is not None
    assert (v4.service.persistence_timeout, v4.service.netmask) == (60, 32)


@pytest.mark.parametrize(
    ("scheduler", "flag"), [("sh", "sh-fallback"), ("mh", "mh-fallback"), ("rr", None), (None, None)]
)
def test_hashing_schedulers_fall_back_while_a_backend_takes_nothing_new(scheduler: str, flag: str) -> None:
    drained = _only({**WEB, "scheduler": scheduler, "backends": [HERE, {**THERE, "weight": 0}]}).virtual
    whole = _only({**WEB, "scheduler": scheduler}).virtual
    assert drained is not None
    assert whole is not None
    assert drained.service.scheduler == (scheduler or "wrr")
    assert drained.service.scheduler_flags == ((flag,) if flag else ())
    assert whole.service.scheduler_flags == ()


def test_source_ranges_are_kept_as_an_ipset_can_hold_them() -> None:
    ranges = {"load_balancer_ips": BALANCER, "vip": [], "source_ranges": ["0.0.0.0/0", "192.0.2.7/32"]}
    found = _compiled({**WEB, **ranges})
    assert _elements(found, "L4-GUARDED") == [BALANCER + ",tcp:8080"]
    admitted = [element.rpartition(",")[2] for element in _elements(found, "L4-SOURCES")]
    assert admitted == ["0.0.0.0/1", "128.0.0.0/1", "192.0.2.7", BALANCER]


def test_ranges_of_the_other_family_admit_nobody() -> None:
    found = _compiled({**WEB, "vip": [], "load_balancer_ips": BALANCER, "source_ranges": ["2001:db8::/32"]})
    assert _elements(found, "L4-GUARDED") == [BALANCER + ",tcp:8080"]
    assert _elements(found, "L4-SOURCES") == []


def test_the_rules_are_as_many_for_one_service_as_for_many() -> None:
    assert ipvs_chains(_node(), "ipv4") == ipvs_chains(_node(), "ipv4")
    names = {key[1] for key in ipvs_chains(_node(chain_prefix="KUBE"), "ipv6").chains}
    assert {"KUBE-IPVS-SERVICES", "KUBE-IPVS-POSTROUTING", "KUBE-INPUT", "KUBE-REPLIES"} <= names
    text = str(ipvs_chains(_node(chain_prefix="ABCDEFGH"), "ipv6"))
    assert "ABCDEFGH-6-LOOP-BACK" in text


def test_a_family_without_services_has_no_rules() -> None:
    found = wanted_chains(_compiled(WEB), _node())
    assert found == {"ipv4": ipvs_chains(_node(), "ipv4"), "ipv6": Desired()}


def test_names_of_sets_fit_with_the_longest_prefix() -> None:
    sets = wanted_sets(_compiled({**WEB, "vip": [VIP, VIP6]}, chain_prefix="ABCDEFGH"), _node(chain_prefix="ABCDEFGH"))
    assert max(map(len, sets)) <= 31


def test_addresses_that_the_node_has_itself_are_not_bound() -> None:
    found = _compiled({**WEB, "vip": [VIP, NODE], "node_port": 30080})
    assert bound_addresses(found.values(), _node()) == {VIP}


def test_direct_services_need_no_hairpin() -> None:
    found = _compiled({**WEB, "forward_method": "direct"})
    assert _elements(found, "L4-LOOP-BACK") == []


def test_what_is_recorded_is_what_was_compiled() -> None:
    services = [
        {**WEB, "vip": [VIP, VIP6], "external_ips": EXTERNAL, "node_port": 30080, "external_traffic_policy": "local"},
        {"name": "none", "vip": OTHER, "port": 53, "protocol": "udp"},
        {**WEB, "name": "lb", "vip": [], "load_balancer_ips": BALANCER, "source_ranges": ["10.0.0.0/8"]},
        {"name": "nobody", "load_balancer_ips": EXTERNAL, "port": 81, "source_ranges": ["2001:db8::/32"]},
    ]
    found = _compiled(*services)
    sets = {name: one.entries for name, one in wanted_sets(found, _node()).items()}
    assert recorded_frontends(sets, virtual_services(found), "L4") == found


def test_others_stay_as_they_are_unless_the_run_is_of_them() -> None:
    web, dns = _compiled(WEB), _compiled({"name": "dns", "vip": OTHER, "port": 53})
    assert merged(web, {**web, **dns}, {"web"}) == {**web, **dns}
    moved = _compiled({**WEB, "port": 9090})
    assert merged(moved, web, {"web"}) == moved


def test_the_summary_names_what_comes_changes_and_goes() -> None:
    before = _compiled(WEB, {"name": "old", "vip": OTHER, "port": 1})
    after = _compiled({**WEB, "scheduler": "rr"}, {"name": "new", "vip": OTHER, "port": 2})
    assert summarise(after, before) == (["new"], ["web"], ["old"])
    assert summarise(after, after) == ([], [], [])


def test_a_frontend_claims_its_address_or_a_port_of_every_address() -> None:
    claimed = {claim_of(one) for one in _compiled({**WEB, "node_port": 30080, "external_ips": [EXTERNAL]}).values()}
    assert claimed == {
        Claim("web", "vip", "tcp", VIP, 8080),
        Claim("web", "external_ips", "tcp", EXTERNAL, 8080),
        Claim("web", "node_port", "tcp", None, 30080),
    }


class TestWithoutARecord:
    """The sets are empty, and IPVS holds what a run has made."""

    WANTED = _compiled({**WEB, "node_port": 30080})
    VIRTUAL = virtual_services(WANTED)

    def test_what_stands_at_our_device_is_ours(self) -> None:
        assert set(held_frontends(self.VIRTUAL, {}, {VIP}, {}, _node())) == {
            key for key in self.WANTED if key.address == VIP
        }

    def test_what_is_wanted_is_ours_when_there_is_a_device_of_ours(self) -> None:
        held = held_frontends(self.VIRTUAL, {}, {VIP}, self.WANTED, _node())
        assert {key: one.service for key, one in held.items()} == dict.fromkeys(self.WANTED, "web")
        assert {one.service for one in held_frontends(self.VIRTUAL, {}, {VIP}, {}, _node()).values()} == {""}

    def test_nothing_is_ours_where_nothing_says_that_we_were_here(self) -> None:
        held = held_frontends(self.VIRTUAL, {}, set(), self.WANTED, _node())
        assert held == {}
        (first, *_others) = foreign_services(self.WANTED, held, self.VIRTUAL)
        assert first.startswith('service "web": vip 10.96.0.1:8080/tcp is taken already by a virtual service of IPVS')

    def test_with_a_record_other_ports_of_our_addresses_may_be_anothers(self) -> None:
        foreign = {key._replace(port=9): one for key, one in self.VIRTUAL.items()}
        sets = {name: one.entries for name, one in wanted_sets(self.WANTED, _node()).items()}
        held = held_frontends({**self.VIRTUAL, **foreign}, sets, {VIP}, self.WANTED, _node())
        assert held == self.WANTED


def test_methods_that_change_no_port_refuse_other_ports() -> None:
    other = {"forward_method": "direct", "backends": [{**HERE, "port": 80}], "node_port": 30080}
    why = "with forward_method direct, which changes no port"
    assert _errors(other) == [
        'service "web": backends has 10.0.1.11:80: port must be 8080, the service\'s own, ' + why,
        'service "web": node_port is 30080: must be null ' + why,
    ]


def test_node_ports_on_localhost_are_refused() -> None:
    assert _errors({}, localhost_node_ports=True) == [
        "node: localhost_node_ports is true: must be false with dataplane ipvs, which cannot serve 127.0.0.1"
    ]


def test_what_a_node_holds_is_the_golden_text() -> None:
    assert golden_text() == GOLDEN.read_text(), "read what has changed, then run golden_ipvs.py to write it anew"
