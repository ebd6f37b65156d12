# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong is one line that names the service, the key, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._model import service as subject
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices

NODE = subject.parse_node({"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"]})
GOOD: dict[str, Any] = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.11"}]}

WRONG_VALUES: list[tuple[str, Any, list[str]]] = [
    # key, value, words that the line must have
    ("name", None, ["services[0]: name is missing", "1 to 63 characters"]),
    ("name", "", ["name", '""', "1 to 63 characters"]),
    ("name", "Web", ["name", '"Web"', "a-z"]),
    ("name", "-web", ["name", '"-web"', "letter or digit"]),
    ("name", "web_1", ["name", '"web_1"']),
    ("name", "a" * 64, ["name", "63 characters"]),
    ("name", 7, ["name is 7", "characters"]),
    ("port", None, ["port is missing", "1 to 65535"]),
    ("port", 0, ["port is 0", "1 to 65535"]),
    ("port", 65536, ["port is 65536", "1 to 65535"]),
    ("port", "http", ['port is "http"', "1 to 65535"]),
    ("port", True, ["port is true", "1 to 65535"]),
    ("port", 80.5, ["port is 80.5", "1 to 65535"]),
    ("port", [80], ["port is [80]", "1 to 65535"]),
    ("protocol", "icmp", ['protocol is "icmp"', "tcp, udp, sctp"]),
    ("protocol", "TCP", ['protocol is "TCP"', "tcp, udp, sctp"]),
    ("vip", "10.96.0.300", ['vip is "10.96.0.300"', "IPv4 or IPv6 address"]),
    ("vip", "10.96.0.1/32", ['"10.96.0.1/32"', "IPv4 or IPv6 address"]),
    ("vip", "10.96.0", ['"10.96.0"', "IPv4 or IPv6 address"]),
    ("vip", "service.example", ["IPv4 or IPv6 address"]),
    ("vip", ["10.96.0.1", "fe80::1%eth0"], ["vip[1]", "fe80::1%eth0", "IPv4 or IPv6 address"]),
    ("vip", ["10.96.0.1", "10.96.0.1"], ["vip[1]", '"10.96.0.1"', "once"]),
    ("vip", ["fd00::1", "FD00:0:0::1"], ["vip[1]", "FD00:0:0::1", "once"]),
    ("vip", 5, ["vip is 5", "a list"]),
    ("vip", {"address": "10.96.0.1"}, ["vip is {", "a list"]),
    ("vip", "0.0.0.0", ["unspecified"]),
    ("vip", "127.0.0.1", ["loopback"]),
    ("vip", "224.0.0.1", ["multicast"]),
    ("vip", "255.255.255.255", ["broadcast"]),
    ("vip", "169.254.0.1", ["link-local"]),
    ("vip", "::ffff:10.0.0.1", ["IPv4-mapped"]),
    ("vip", [], ["it has no address", "external_ips", "node_port"]),
    ("backends", {"address": "10.0.0.1"}, ["backends is {", "a list"]),
    ("backends", "10.0.0.11", ['backends is "10.0.0.11"', "a list"]),
    ("backends", ["10.0.0.11"], ['backends[0] is "10.0.0.11"', "address, port, weight"]),
    ("backends", [{}], ["backends[0]: address is missing", "IPv4 or IPv6 address"]),
    ("backends", [{"address": "10.0.0"}], ['backends[0]: address is "10.0.0"']),
    ("backends", [{"address": "::1"}], ["backends[0]: address", "loopback"]),
    ("backends", [{"address": "10.0.0.1", "port": -1}], ["backends[0]: port is -1", "1 to 65535"]),
    ("backends", [{"address": "10.0.0.1", "weight": 65536}], ["weight is 65536", "0 to 65535"]),
    ("backends", [{"address": "10.0.0.1", "weight": -1}], ["weight is -1", "0 to 65535"]),
    ("backends", [{"address": "10.0.0.1", "ready": "maybe"}], ['ready is "maybe"', "true or false"]),
    ("backends", [{"address": "10.0.0.1", "node": 5}], ["node is 5", "a string"]),
    ("backends", [{"address": "10.0.0.1", "state": "up"}], ['"state" is not a known key', '"up"', "terminating"]),
    ("backends", [{"address": "10.0.0.1"}, {"address": "10.0.0.1", "port": 80}], ["10.0.0.1:80 twice", "once"]),
    ("backends", [{"address": "10.96.0.1"}], ["10.96.0.1:80", "own vip"]),
    ("node_port", 70000, ["node_port is 70000", "1 to 65535"]),
    ("external_ips", ["10.0.0.0/8"], ["external_ips[0]", "10.0.0.0/8"]),
    ("load_balancer_ips", "localhost", ['load_balancer_ips is "localhost"']),
    ("source_ranges", ["10.0.0.0/33"], ["source_ranges[0]", "10.0.0.0/33", "CIDR"]),
    ("source_ranges", ["10.0.0.1/8"], ["source_ranges[0]", "10.0.0.0/8 may be meant"]),
    ("source_ranges", ["fd00::/129"], ["fd00::/129", "CIDR"]),
    ("source_ranges", ["10.0.0.0/255.0.0.0"], ["10.0.0.0/255.0.0.0", "CIDR"]),
    ("session_affinity", "ClientIP", ['session_affinity is "ClientIP"', "none, client_ip"]),
    ("session_affinity_timeout", 0, ["session_affinity_timeout is 0", "1 to 86400"]),
    ("session_affinity_timeout", 86401, ["86401", "1 to 86400"]),
    ("internal_traffic_policy", "Local", ['"Local"', "cluster, local"]),
    ("external_traffic_policy", "node", ['"node"', "cluster, local"]),
    ("scheduler", "random", ['scheduler is "random"', "wrr"]),
    ("scheduler", "rr", ['scheduler is "rr"', "null", "iptables"]),
    ("forward_method", "nat", ['forward_method is "nat"', "masquerade, direct, tunnel"]),
    ("forward_method", "direct", ['forward_method is "direct"', "masquerade", "iptables"]),
    ("sheduler", "rr", ['"sheduler" is not a known key', '"rr"', "scheduler"]),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG_VALUES)
def test_a_wrong_value_is_one_line(key: str, value: Any, words: list[str]) -> None:
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services([{**GOOD, key: value}], NODE, registry.load("iptables").problems)
    assert len(refused.value.problems) == 1, refused.value.problems
    line = refused.value.problems[0]
    assert "\n" not in line
    for word in words:
        assert word in line, line
    if key != "name":
        assert line.startswith('service "web": '), line


WRONG_NODES = [
    ({"name": ""}, ["name", "a string"]),
    ({"nodename": "a"}, ['"nodename" is not a known key', "chain_prefix"]),
    ({"addresses": ["10.0.0.1/24"]}, ["addresses[0]", "10.0.0.1/24", "address"]),
    ({"local_cidrs": ["10.0.0.1/24"]}, ["local_cidrs[0]", "10.0.0.0/24 may be meant"]),
    ({"masquerade_all": "perhaps"}, ["masquerade_all", '"perhaps"', "true or false"]),
    ({"node_port_addresses": "eth0"}, ["node_port_addresses", '"eth0"', "CIDR"]),
    ({"localhost_node_ports": 2}, ["localhost_node_ports is 2", "true or false"]),
    ({"snat_address": "10.0.0.0/8"}, ["snat_address", "10.0.0.0/8", "address"]),
    ({"snat_address": "0.0.0.0"}, ["snat_address", "unspecified"]),
    ({"masquerade_mark": "0x4000/0x8000"}, ["masquerade_mark", "inside the mask"]),
    ({"masquerade_mark": "0x0/0x1"}, ["masquerade_mark", "not 0"]),
    ({"masquerade_mark": "mark"}, ["masquerade_mark", '"mark"', "hexadecimal"]),
    ({"masquerade_mark": "0x1ffffffff"}, ["masquerade_mark", "hexadecimal"]),
    ({"flow_offload": ["eth0", ".."]}, ["flow_offload[1]", '".."', "the name of a network device"]),
    ({"flow_offload": "eth0 }"}, ["flow_offload", '"eth0 }"', "1 to 15 characters"]),
    ({"chain_prefix": "l4"}, ["chain_prefix", '"l4"', "A-Z and 0-9"]),
    ({"chain_prefix": "TOOLONGFOR"}, ["chain_prefix", "1 to 8"]),
]


@pytest.mark.parametrize(("settings", "words"), WRONG_NODES)
def test_a_wrong_node_setting_is_one_line(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidServices) as refused:
        subject.parse_node({"name": "node1", **settings})
    assert len(refused.value.problems) == 1, refused.value.problems
    assert refused.value.problems[0].startswith("node: ")
    for word in words:
        assert word in refused.value.problems[0]


def test_all_errors_are_reported_at_once() -> None:
    wrong = [{**GOOD, "port": 0, "protocol": "x"}, {**GOOD, "name": "two", "vip": "nowhere"}, 7]
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services(wrong, NODE)
    assert len(refused.value.problems) == 4


TAKEN_TWICE = [
    ({"vip": "10.96.0.1"}, {"vip": "10.96.0.1"}),
    ({"vip": "fd00::1"}, {"vip": "FD00::0:1"}),
    ({"vip": "10.96.0.1"}, {"external_ips": "10.96.0.1"}),
    ({"vip": "10.96.0.1"}, {"load_balancer_ips": "10.96.0.1"}),
    ({"node_port": 80}, {"node_port": 80}),
    ({"node_port": 80}, {"external_ips": "192.0.2.1"}),
    ({"load_balancer_ips": "2001:db8::1"}, {"node_port": 80}),
]


@pytest.mark.parametrize(("first", "second"), TAKEN_TWICE)
def test_what_is_taken_twice_names_both_services(first: dict[str, Any], second: dict[str, Any]) -> None:
    services = [{"name": "one", "port": 80, **first}, {"name": "two", "port": 80, **second}]
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services(services, NODE)
    (line,) = refused.value.problems
    assert '"one"' in line
    assert '"two"' in line
    subject.parse_services([services[0], {**services[1], "protocol": "udp"}], NODE)
    if "node_port" not in second:
        subject.parse_services([services[0], {**services[1], "port": 81}], NODE)


def test_a_name_twice_names_both_places() -> None:
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services([GOOD, {**GOOD, "vip": "10.96.0.2"}], NODE)
    assert refused.value.problems == [
        'service "web": name is "web" in services[0] and in services[1]: a name is allowed once'
    ]


def test_a_name_twice_is_found_behind_a_service_without_one() -> None:
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services([{**GOOD, "name": None}, GOOD, {**GOOD, "vip": "10.96.0.2"}], NODE)
    assert refused.value.problems[1:] == [
        'service "web": name is "web" in services[1] and in services[2]: a name is allowed once'
    ]


def test_an_address_under_two_keys_of_one_service_is_refused() -> None:
    with pytest.raises(InvalidServices) as refused:
        subject.parse_services([{**GOOD, "external_ips": "10.96.0.1"}], NODE)
    assert "external_ips 10.96.0.1:80/tcp is taken already by vip of itself" in refused.value.problems[0]


def test_defaults_and_canonical_spelling() -> None:
    raw = {
        "name": "web",
        "vip": "FD00:0::1",
        "port": "80",
        "backends": [
            {"address": "fd00:0:0::b", "weight": "3"},
            {"address": "10.0.0.2", "port": 8080, "ready": "no"},
            {"address": "10.0.0.10", "ready": False, "serving": True, "terminating": 1},
        ],
        "scheduler": None,
    }
    (web,) = subject.parse_services([raw], NODE)
    assert web.vip == ("fd00::1",)
    assert web.protocol == "tcp"
    assert web.session_affinity_timeout == 10800
    assert [tuple(backend) for backend in web.backends] == [
        ("10.0.0.2", 8080, 1, None, False, False, False, None, 0),
        ("10.0.0.10", 80, 1, None, False, True, True, None, 0),
        ("fd00::b", 80, 3, None, True, True, False, None, 0),
    ]


def test_names_alone_are_enough_for_absent() -> None:
    assert subject.parse_names([{"name": "web"}, {"name": "dns", "port": 0}]) == ["web", "dns"]
    with pytest.raises(InvalidServices):
        subject.parse_names([{"port": 80}])
    with pytest.raises(InvalidServices):
        subject.parse_names(["web"])
