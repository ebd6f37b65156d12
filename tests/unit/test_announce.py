# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node announces: which addresses, in which words of keepalived and BIRD, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.addresses import (
    Address,
    find_addresses,
    service_problems,
    service_warnings,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.bgp import bird_text, has_bfd, router_id
from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.main_file import MainFile, lines_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.settings import (
    Announcement,
    InvalidAnnouncement,
    parse_announcement,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._announce.vrrp import (
    TooManyGroups,
    find_groups,
    held_addresses,
    keepalived_text,
    switches,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    Service,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import announce, daemon_files, daemons
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.daemon_files import read_foreign
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeRunner

IP, OTHER, IP6 = "203.0.113.10", "203.0.113.11", "2001:db8::10"
NODES = [{"name": "node1", "address": ["10.0.0.1"]}, {"name": "node2", "address": ["10.0.0.2"]}]
NEIGHBOR = {"address": "10.0.0.254", "asn": 65000, "bfd": True}
VRRP = {"announce": "vrrp", "name": "node1", "announce_address": ["10.0.0.1"], "announce_nodes": NODES}
BGP = {"announce": "bgp", "name": "node1", "bgp_asn": 65001, "bgp_neighbors": [NEIGHBOR]}
NEVER_READY: dict[str, Any] = {"ready": False}
DRAINED: dict[str, Any] = {"weight": 0}


def plan(**settings: Any) -> Announcement:
    found = parse_announcement({**DEFAULTS, **settings})
    assert found
    return found


def node(name: str = "node1") -> Node:
    return parse_node({"name": name})


def services(*given: Mapping[str, Any]) -> list[Service]:
    return parse_services([{"name": f"s{number}", "port": 80, **one} for number, one in enumerate(given)], node())


def at(*addresses: str, policy: str = "cluster", port: int = 80, **backend: Any) -> dict[str, Any]:
    """A service with one backend in each family."""
    backends = [{"address": one, "port": 8080, **backend} for one in ("10.1.0.1", "fd01::1")]
    return {"external_ips": list(addresses), "external_traffic_policy": policy, "port": port, "backends": backends}


def announced(*given: Mapping[str, Any], name: str = "node1", vips: bool = False) -> list[str]:
    return [one.address for one in find_addresses(services(*given), node(name), vips) if one.is_served]


def test_external_and_load_balancer_addresses_are_announced_and_virtual_ips_on_request() -> None:
    given = {**at(IP6, OTHER), "load_balancer_ips": [IP], "vip": "10.96.0.1"}
    assert announced(given) == [IP, OTHER, IP6]
    assert announced(given, vips=True) == ["10.96.0.1", IP, OTHER, IP6]


@pytest.mark.parametrize("backend", [NEVER_READY, DRAINED], ids=["unready", "weight 0"])
def test_an_address_without_usable_backends_is_not_announced(backend: dict[str, Any]) -> None:
    assert announced(at(IP, **backend)) == []
    assert announced(at(IP, **backend), at(OTHER)) == [OTHER]


def test_backends_that_end_but_serve_are_usable() -> None:
    assert announced(at(IP, ready=False, serving=True, terminating=True)) == [IP]


def test_with_a_local_policy_only_nodes_with_a_backend_announce() -> None:
    given = at(IP, policy="local", node="node2")
    assert (announced(given), announced(given, name="node2")) == ([], [IP])


def test_the_policy_of_a_virtual_ip_is_the_internal_one() -> None:
    given = {**at(IP, policy="local", node="node2"), "vip": "10.96.0.1"}
    assert announced(given, vips=True) == ["10.96.0.1"]
    assert announced({**given, "internal_traffic_policy": "local"}, vips=True) == []


def test_services_that_share_an_address_all_have_to_be_served_unless_none_can() -> None:
    local = at(IP, policy="local", node="node2", port=443)
    assert announced(at(IP), local) == []
    assert announced(at(IP), at(IP, port=443, **NEVER_READY)) == [IP]


def addresses(*found: str, local: tuple[str, ...] = (), served: bool = True) -> list[Address]:
    return [Address(one, False, served) for one in found] + [Address(one, True, served) for one in local]


def test_the_nodes_of_a_group_agree_about_ids_and_differ_in_priority() -> None:
    found = addresses(IP, OTHER, local=("203.0.113.20",))
    first = keepalived_text(find_groups(found, 51), plan(**VRRP), "eth0")
    second = keepalived_text(
        find_groups(found, 51), plan(**{**VRRP, "name": "node2", "announce_address": ["10.0.0.2"]}), "eth0"
    )
    assert re.findall(r"priority (\d+)", first) == ["254", "254"]
    assert re.findall(r"priority (\d+)", second) == ["253", "253"]
    ids = [re.findall(r"virtual_router_id (\d+)", text) for text in (first, second)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    assert "51" in ids[0]
    assert "unicast_src_ip 10.0.0.1\n    unicast_peer {\n        10.0.0.2\n    }" in first


def test_a_node_that_the_others_do_not_list_is_the_first() -> None:
    assert [one.name for one in plan(**{**VRRP, "announce_nodes": NODES[1:]}).nodes] == ["node1", "node2"]


def test_the_text_of_keepalived() -> None:
    text = keepalived_text(find_groups(addresses(IP, OTHER), 7), plan(**VRRP), "br-lan.5")
    assert text.rpartition("\n\n")[2] == (
        "vrrp_instance l4-ipv4-7 {\n    version 3\n    state BACKUP\n    nopreempt\n    interface br-lan.5\n    virtual_router_id 7\n"
        "    priority 254\n    advert_int 1\n    unicast_src_ip 10.0.0.1\n    unicast_peer {\n        10.0.0.2\n    }\n"
        "    track_file {\n        l4-withdrawn\n        l4-ipv4-7\n    }\n    virtual_ipaddress {\n        203.0.113.10/32\n    }\n"
        "    virtual_ipaddress_excluded {\n        203.0.113.11/32\n    }\n}\n"
    )
    assert 'track_file l4-withdrawn {\n    file "/var/lib/layer4-service-proxy.withdrawn"\n    weight 0\n}' in text
    assert held_addresses(text) == [IP, OTHER]


@pytest.mark.parametrize("name", ["eth0#x", "eth0}", "$X", "a!b", 'q"', "e\x1b[0m", "eth0", "br-lan.5"])
def test_an_interface_found_on_the_node_is_no_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce.link, "addresses", lambda _runner: {"lo": ["127.0.0.1"], name: ["10.0.0.1"]})

    def compiled(**more: Any) -> announce.Wanted | None:
        settings = {**DEFAULTS, **VRRP, **more}
        return announce.compile_announcement(settings, services(at(IP)), node(), "end", FakeRunner())

    if name.isalnum() or name == "br-lan.5":
        found = compiled()
        assert found
        assert f"    interface {name}\n" in found.text
        return
    with pytest.raises(NodeError, match="whose name cannot stand in keepalived's configuration") as refused:
        compiled()
    with pytest.raises(NodeError, match="must be one of") as missing:
        compiled(vrrp_interface="eth7")
    assert str(refused.value).isprintable()
    assert str(missing.value).isprintable()


def test_a_link_of_a_daemons_user_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, main = tmp_path / "secret", tmp_path / "bird.conf"
    secret.write_text("secret")
    main.symlink_to(secret)
    assert read_foreign(str(main)) == "secret"
    lstat = os.lstat

    def of_bird(path: Any, **how: Any) -> os.stat_result:
        fields = list(lstat(path, **how))
        fields[4] = 4242
        return os.stat_result(fields)

    monkeypatch.setattr(daemon_files.os, "lstat", of_bird)
    with pytest.raises(NodeError, match="is a link of user 4242"):
        read_foreign(str(main))
    daemon = daemons.keepalived()
    daemon = daemon._replace(main=daemon.main._replace(path=str(main)))
    with pytest.raises(NodeError, match="is a link of user 4242"):
        daemon_files._write_main(daemon, ("secret", "changed"))
    assert secret.read_text() == "secret"
    assert read_foreign(str(secret)) == "secret"


def test_a_group_is_switched_off_when_none_of_its_addresses_is_served() -> None:
    found = [Address(IP, False, False), Address(OTHER, False, True), Address(IP6, False, False)]
    assert list(switches(find_groups(found, 51)).values()) == ["0\n", "1\n"]


def test_families_share_an_id_and_local_addresses_have_their_own() -> None:
    many = tuple(f"203.0.113.{number}" for number in range(254))
    groups = find_groups(addresses(IP6, "198.51.100.1", local=many), 200)
    ids = [one.id for one in groups if one.family == "ipv4"]
    assert sorted(ids) == list(range(1, 256))
    assert [one.id for one in groups if one.family == "ipv6"] == [200]
    with pytest.raises(TooManyGroups, match="255 addresses belong to services with a local policy: must be 254"):
        find_groups(addresses(local=(*many, "198.51.100.9")), 200)


def test_the_id_of_a_local_address_is_the_same_in_every_version() -> None:
    """Nodes of which some have been upgraded share their groups."""
    groups = find_groups(addresses(local=("203.0.113.20", "2001:db8::20")), 51)
    assert [one.id for one in groups] == [246, 212]


def test_ids_of_local_addresses_stay_when_others_come() -> None:
    few, more = (tuple(f"203.0.113.{number}" for number in range(0, 40, step)) for step in (2, 1))
    before, after = (
        {one.addresses[0].address: one.id for one in find_groups(addresses(local=local), 51)} for local in (few, more)
    )
    assert sum(before[one] == after[one] for one in few) > len(few) / 2


def test_the_text_of_bird() -> None:
    text = bird_text(plan(**BGP), [IP, IP6], False, True)
    assert text.split("\n", 1)[1] == (
        "\nipv4 table l4_service_proxy_ipv4;\n\nprotocol static l4_service_proxy_static_ipv4 {\n    ipv4 { table l4_service_proxy_ipv4; };\n"
        "    route 203.0.113.10/32 blackhole;\n}\n\nprotocol bfd l4_service_proxy_bfd {\n}\n\nprotocol bgp l4_service_proxy_10_0_0_254 {\n"
        "    local as 65001;\n    neighbor 10.0.0.254 as 65000;\n    graceful restart off;\n    bfd {\n        min rx interval 300 ms;\n"
        "        min tx interval 300 ms;\n        multiplier 3;\n    };\n    ipv4 {\n        table l4_service_proxy_ipv4;\n"
        "        import none;\n        export filter {\n            accept;\n        };\n    };\n}\n"
    )


def test_a_node_that_leaves_asks_routers_to_prefer_others() -> None:
    assert "bgp_community.add((65535, 0));\n            accept;" in bird_text(plan(**BGP), [IP], True, True)
    assert "bgp_community" not in bird_text(plan(**BGP), [IP], False, True)


def test_bfd_is_asked_for_by_neighbour_and_not_where_the_daemon_has_it() -> None:
    without = plan(**{**BGP, "bgp_neighbors": [{**NEIGHBOR, "bfd": False}]})
    assert "bfd" not in bird_text(without, [IP], False, True)
    assert "protocol bfd" not in bird_text(plan(**BGP), [IP], False, False)
    assert has_bfd("protocol device {\n}\nprotocol bfd mine {\n}\n")
    assert not has_bfd("# protocol bfd\nprotocol bgp x {\n bfd on;\n}\n")


def test_the_address_of_a_session_is_the_nodes_own_where_it_is_given() -> None:
    given = plan(**{**BGP, "announce_address": ["10.0.0.1"]})
    assert "    router id 10.0.0.1;\n    local 10.0.0.1 as 65001;" in bird_text(given, [IP], False, True)
    assert router_id(given) == "10.0.0.1"
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", router_id(plan(**BGP)))


ADDRESS = "must be the IP address by which the other nodes reach it, one of each family at most"
ASN = "the number of an autonomous system, 1 to 4294967294, none of 23456, 65535"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({**VRRP, "announce_address": ["host"]}, f'service_proxy_announce_address[0] of node1 is "host": {ADDRESS}'),
        (
            {**VRRP, "announce_address": ["10.0.0.1", "10.0.0.9"]},
            f'service_proxy_announce_address[1] of node1 is "10.0.0.9": {ADDRESS}',
        ),
        (
            {**VRRP, "announce_address": ["127.0.0.1"]},
            f'service_proxy_announce_address[0] of node1 is "127.0.0.1": {ADDRESS}',
        ),
        (
            {**VRRP, "announce_nodes": [*NODES, {"name": "node3", "address": ["10.0.0.2"]}]},
            "service_proxy_announce_address of node2 and of node3 is 10.0.0.2: must be different",
        ),
        (
            {**VRRP, "vrrp_interface": "eth0 {"},
            (
                'service_proxy_vrrp_interface is "eth0 {": must be the name of a network interface, 1 to 15 characters of A-Z, a-z, '
                "0-9, '_', '.' and '-'"
            ),
        ),
        ({**VRRP, "vrrp_interface": "eth0\n"}, "service_proxy_vrrp_interface is"),
        ({**VRRP, "vrrp_id": 256}, "service_proxy_vrrp_id is 256: must be an integer from 1 to 255"),
        (
            {**VRRP, "announce_nodes": [{"name": f"n{number}", "address": None} for number in range(253)]},
            "service_proxy_announce is vrrp on 254 nodes: must be 253 at most (bgp has no such limit)",
        ),
        ({**BGP, "bgp_asn": None}, f"service_proxy_bgp_asn is null: must be {ASN}"),
        *(
            ({**BGP, "bgp_asn": one}, f"service_proxy_bgp_asn is {one}: must be {ASN}")
            for one in (0, 23456, 65535, 4294967295)
        ),
        (
            {**BGP, "bgp_neighbors": []},
            "service_proxy_bgp_neighbors is []: must have a router at least, since service_proxy_announce is bgp",
        ),
        (
            {**BGP, "bgp_neighbors": [{**NEIGHBOR, "address": "router; }"}]},
            'service_proxy_bgp_neighbors[0]: address is "router; }": must be the IP address of a router',
        ),
        (
            {**BGP, "bgp_neighbors": [NEIGHBOR, {"address": "10.0.0.253", "asn": 0}]},
            f"service_proxy_bgp_neighbors[1]: asn is 0: must be {ASN}",
        ),
        (
            {**BGP, "bgp_neighbors": [NEIGHBOR, NEIGHBOR]},
            "service_proxy_bgp_neighbors has 10.0.0.254 twice: an address is allowed once",
        ),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidAnnouncement) as raised:
        plan(**settings)
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith(problem)


def test_of_its_own_addresses_a_node_believes_its_own_setting() -> None:
    found = plan(**{**VRRP, "announce_nodes": [{"name": "node1", "address": ["10.0.0.9"]}, NODES[1]]})
    assert [(one.name, one.addresses) for one in found.nodes] == [
        ("node1", {"ipv4": "10.0.0.1"}),
        ("node2", {"ipv4": "10.0.0.2"}),
    ]


@pytest.mark.parametrize("asn", [1, 23455, 65534, 65536, 4294967294])
def test_numbers_of_autonomous_systems(asn: int) -> None:
    assert plan(**{**BGP, "bgp_asn": asn}).asn == asn


def test_nothing_is_asked_of_who_announces_nothing() -> None:
    assert parse_announcement({**DEFAULTS, "name": "node1", "vrrp_id": 0}) is None


@pytest.mark.parametrize("number", [1, 255])
def test_the_first_and_the_last_id_are_allowed(number: int) -> None:
    assert plan(**VRRP, vrrp_id=number).vrrp_id == number


def problems_of(settings: Mapping[str, Any], *given: Mapping[str, Any]) -> list[str]:
    found = services(*given)
    return service_problems(find_addresses(found, node(), False), found, plan(**settings))


def test_what_cannot_be_announced_is_refused() -> None:
    assert problems_of(VRRP, at("10.0.0.2")) == [
        'service "s0": 10.0.0.2 is to be announced, but is the own address of node2: must be an address that no node has itself'
    ]
    assert problems_of(VRRP, at(IP6)) == [
        f"{name} has no service_proxy_announce_address of IPv6, and no ansible_host that is one: must be the address by which the other "
        f"nodes reach it, since {IP6} is to be announced"
        for name in ("node1", "node2")
    ]
    assert problems_of(BGP, at(IP, IP6)) == [
        f"service_proxy_bgp_neighbors has no IPv6 address, but {IP6} is to be announced: must have one of IPv6"
    ]
    assert problems_of(VRRP, at(IP)) == problems_of(BGP, at(IP)) == []


def test_nothing_to_announce_and_nobody_to_take_over_are_warned_of() -> None:
    alone = plan(**{**VRRP, "announce_nodes": NODES[:1]})
    assert service_warnings([], alone) == [
        (
            "service_proxy_announce is vrrp, but no service has external_ips or load_balancer_ips (service_proxy_announce_vips is false): "
            "nothing is announced"
        ),
        "service_proxy_announce is vrrp on node1 alone: no other node takes its addresses over",
    ]
    assert service_warnings(addresses(IP), plan(**VRRP)) == []


def test_where_virtual_ips_are_announced_they_are_among_what_no_service_has() -> None:
    assert service_warnings([], plan(**VRRP, announce_vips=True)) == [
        "service_proxy_announce is vrrp, but no service has external_ips, load_balancer_ips or vip: nothing is announced"
    ]


KEEPALIVED = MainFile(
    "/etc/keepalived/keepalived.conf", "/etc/keepalived/l4.conf", "include /etc/keepalived/l4.conf", ""
)
BIRD = MainFile("/etc/bird/bird.conf", "/etc/bird/l4.conf", 'include "/etc/bird/l4.conf";', "protocol device {\n}\n")


@pytest.mark.parametrize("main", [KEEPALIVED, BIRD])
@pytest.mark.parametrize("text", [None, "", "x {\n}", "x {\n}\n\n", "include other.conf\r\n", "log \udcff;\n"])
def test_a_main_file_becomes_what_it_was_to_the_byte(main: MainFile, text: str | None) -> None:
    included = main.included(text)
    assert main.include in included
    assert main.included(included) == included
    assert main.without(included) == text
    before, after = lines_of(text, included)
    assert before == ""
    assert main.include in after
    assert not text or text not in after


def test_what_users_change_in_a_main_file_stays() -> None:
    assert BIRD.without(BIRD.made + "protocol static {\n}\n") == "protocol device {\n}\nprotocol static {\n}\n"
    assert BIRD.without("log all;\n" + BIRD.included("x;\n")) == "log all;\nx;\n"
    assert BIRD.without("x;\n") == "x;\n"


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (KEEPALIVED, "include /etc/keepalived/*.conf"),
        (KEEPALIVED, "includer l4.conf # ours"),
        (BIRD, '  include "*.conf";'),
    ],
)
def test_a_main_file_that_includes_ours_already_stays_as_it_is(main: MainFile, line: str) -> None:
    assert main.included(f"x\n{line}\n") == f"x\n{line}\n"
    assert main.included(f"x\n#{line}\n") != f"x\n#{line}\n"


def test_the_daemon_tests_another_file_in_place_of_ours() -> None:
    assert BIRD.tested(BIRD.included("x;\n"), "/etc/bird/t").endswith('include "/etc/bird/t";\nx;\n')
