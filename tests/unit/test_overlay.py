# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay without a kernel: what the inventory may ask for, what it comes to, and how a node gets there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.overlay_messages import LinkInfo
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.overlay import (
    InvalidOverlay,
    OverlayPlan,
    parse_overlay,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_overlay, overlay
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_generations import BootError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.overlay import Surroundings
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.overlay import (
    DEVICE,
    Forwarding,
    InnerAddress,
    Item,
    Neighbour,
    OtherTunnel,
    ReversePath,
    Route,
    Tunnel,
    Way,
    key,
    text,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.overlay import diff, plan
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._overlay import (
    DifferentOverlays,
    other_nodes,
    own_address,
)

NODE2 = {"name": "node2", "address": ["192.0.2.2", "2001:db8::2"], "cidrs": ["10.0.2.0/24", "fd00:2::/64"]}
OWN = {"name": "node1", "overlay_address": ["192.0.2.1", "2001:db8::1"], "backend_cidrs": ["10.0.1.0/24"]}
ETH0 = LinkInfo("eth0", 2, "", 1500, None)
ON_LINK = Way("eth0", is_local=False, is_direct=True, is_default=False)
HERE = Way("lo", is_local=True, is_direct=True, is_default=False)


def asked(mode: str, *others: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**DEFAULTS, **OWN, "overlay": mode, "overlay_nodes": list(others or [NODE2]), **settings}


def around(found: OverlayPlan, **differing: Any) -> Surroundings:
    ways = {address: ON_LINK for node in found.others for address in node.addresses.values()}
    ways.update(dict.fromkeys(found.own.addresses.values(), HERE))
    addresses = [(ETH0, address) for address in found.own.addresses.values()]
    return Surroundings(ways, {"eth0": 1500, "lo": 65536}, [], [], addresses, None)._replace(**differing)


def problems(mode: str, *others: dict[str, Any], **settings: Any) -> list[str]:
    with pytest.raises(InvalidOverlay) as raised:
        parse_overlay(asked(mode, *others, **settings))
    return raised.value.problems


def test_routes_lead_to_the_address_of_their_family() -> None:
    found = parse_overlay(asked("routes"))
    assert overlay.compile_overlay(found, around(found)) == [
        Route("10.0.2.0/24", "192.0.2.2", "eth0", 0),
        Route("fd00:2::/64", "2001:db8::2", "eth0", 1024),
    ]


def test_vxlan_carries_both_families_over_the_one_that_all_nodes_have() -> None:
    found = parse_overlay(asked("vxlan", {**NODE2, "address": ["2001:db8::2"]}))
    mac = found.mac(found.others[0])
    assert overlay.compile_overlay(found, around(found)) == [
        Tunnel(4004, 4789, "2001:db8::1", found.mac(found.own), 1430),
        ReversePath(2),
        InnerAddress("169.254.0.1/32"),
        InnerAddress("fd4c:3400::1/128"),
        Forwarding(mac, "2001:db8::2"),
        Neighbour("169.254.0.2", mac),
        Route("169.254.0.2/32", "", DEVICE, 0),
        Neighbour("fd4c:3400::2", mac),
        Route("fd4c:3400::2/128", "", DEVICE, 1024),
        Route("10.0.2.0/24", "169.254.0.2", DEVICE, 0, onlink=True),
        Route("fd00:2::/64", "fd4c:3400::2", DEVICE, 1024, onlink=True),
    ]


def test_a_device_is_named_by_the_address_that_carries_it() -> None:
    found = parse_overlay(asked("vxlan"))
    assert [found.mac(node) for node in found.nodes] == ["02:4c:c0:00:02:01", "02:4c:c0:00:02:02"]
    assert found.inner_address(found.own, "ipv4") == "169.254.2.1"
    assert found.inner_address(found.own, "ipv6") == "fd4c:3400::c000:201"


def test_the_mtu_is_that_of_the_narrowest_way() -> None:
    others = [NODE2, {"name": "node3", "address": ["198.51.100.3"], "cidrs": []}]
    found = parse_overlay(asked("vxlan", *others))
    ways = {**around(found).ways, "198.51.100.3": ON_LINK._replace(device="wg0")}
    narrow = around(found, ways=ways, mtus={"eth0": 1500, "wg0": 1420})
    tunnels = [one for one in overlay.compile_overlay(found, narrow) if isinstance(one, Tunnel)]
    assert [one.mtu for one in tunnels] == [1370]
    (given,) = [
        one
        for one in overlay.compile_overlay(parse_overlay(asked("vxlan", *others, vxlan_mtu=1300)), narrow)
        if isinstance(one, Tunnel)
    ]
    assert given.mtu == 1300


@pytest.mark.parametrize(
    ("mode", "others", "settings", "message"),
    [
        (
            "routes",
            [{**NODE2, "address": []}],
            {},
            "node2 has no service_proxy_overlay_address of IPv4, which its service_proxy_backend_cidrs need",
        ),
        ("vxlan", [{**NODE2, "address": []}], {}, "node2 has no service_proxy_overlay_address, and no ansible_host"),
        (
            "routes",
            [{**NODE2, "address": ["node2.example"]}],
            {},
            'of node2 is "node2.example": no IP address: must be',
        ),
        ("routes", [{**NODE2, "address": ["127.0.0.1"]}], {}, 'of node2 is "127.0.0.1": a loopback address: must be'),
        ("routes", [], {"overlay_address": ["192.0.2.1", "192.0.2.9"]}, "a second one of its family"),
        ("routes", [{**NODE2, "address": ["192.0.2.1", "2001:db8::2"]}], {}, "of node1 and of node2 is 192.0.2.1"),
        (
            "routes",
            [{**NODE2, "cidrs": ["10.0.2.1/24"]}],
            {},
            'service_proxy_backend_cidrs[0] of node2 is "10.0.2.1/24"',
        ),
        (
            "routes",
            [{**NODE2, "cidrs": ["10.0.0.0/16"]}],
            {},
            "service_proxy_backend_cidrs of node2 has 10.0.0.0/16, and of node1 10.0.1.0/24: must not overlap",
        ),
        (
            "routes",
            [{**NODE2, "cidrs": []}],
            {"backend_cidrs": None},
            "service_proxy_overlay is routes, but no node has service_proxy_backend_cidrs",
        ),
        (
            "vxlan",
            [{**NODE2, "address": ["2001:db8::2"]}],
            {"overlay_address": ["192.0.2.1"]},
            "service_proxy_overlay_address has no family that all nodes have (node1 192.0.2.1, node2 2001:db8::2)",
        ),
        (
            "vxlan",
            [{**NODE2, "cidrs": ["192.0.2.0/28"]}],
            {},
            "service_proxy_overlay_address of node1 is 192.0.2.1, inside of 192.0.2.0/28",
        ),
        (
            "vxlan",
            [{**NODE2, "address": ["198.51.2.1"]}],
            {},
            "169.254.0.0/16: node1 and node2 would both have 169.254.2.1 of it: must be a larger network",
        ),
        (
            "vxlan",
            [],
            {"vxlan_networks": ["10.0.0.0/8", "fd4c::/64"]},
            "has 10.0.0.0/8, which holds 10.0.1.0/24 of node1",
        ),
        ("vxlan", [], {"vxlan_networks": ["10.9.0.0/16"]}, "service_proxy_vxlan_networks has no network of IPv6"),
        (
            "vxlan",
            [],
            {"vxlan_networks": ["10.9.0.0/16", "fd4c::/64", "10.10.0.0/16"]},
            'service_proxy_vxlan_networks[2] is "10.10.0.0/16": a second one of IPv4: must be one network of each family at most',
        ),
        ("vxlan", [], {"vxlan_networks": ["10.9.0.1/16"]}, 'service_proxy_vxlan_networks[0] is "10.9.0.1/16": must be'),
        (
            "vxlan",
            [],
            {"vxlan_id": 1 << 24},
            "service_proxy_vxlan_id is 16777216: must be an integer from 1 to 16777215",
        ),
        ("vxlan", [], {"vxlan_port": 0}, "service_proxy_vxlan_port is 0: must be an integer from 1 to 65535"),
        ("vxlan", [], {"vxlan_mtu": 576}, "service_proxy_vxlan_mtu is 576: must be an integer from 1280 to 65535"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    mode: str, others: list[dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    assert [one for one in problems(mode, *others, **settings) if message in one and "\n" not in one]


THEIRS = Route("10.0.2.0/24", "192.0.2.9", "eth0", 0, protocol=3)
BEHIND = Way("eth0", is_local=False, is_direct=False, is_default=True)


@pytest.mark.parametrize(
    ("mode", "differing", "message"),
    [
        (
            "routes",
            {"routes": [THEIRS]},
            'to 10.0.2.0/24, of service_proxy_backend_cidrs of another node: "10.0.2.0/24 via 192.0.2.9',
        ),
        ("vxlan", {"routes": [THEIRS]}, "node1 has a route of somebody else to 10.0.2.0/24"),
        (
            "routes",
            {"addresses": []},
            "service_proxy_overlay_address of node1 is 192.0.2.1: must be an address that this host has",
        ),
        (
            "routes",
            {"ways": {"192.0.2.2": BEHIND, "2001:db8::2": ON_LINK}},
            "192.0.2.2 of node2 is behind a gateway of node1 on eth0",
        ),
        ("routes", {"ways": {"192.0.2.2": None, "2001:db8::2": None}}, "192.0.2.2 of node2 has no route from node1"),
        ("routes", {"ways": {"192.0.2.2": HERE, "2001:db8::2": HERE}}, "is an address of node1 itself"),
        ("vxlan", {"tunnels": [OtherTunnel("flannel.1", 4004, 4789)]}, "as device flannel.1 of node1 has them already"),
        ("vxlan", {"device": LinkInfo(DEVICE, 9, "dummy", 1500, None)}, "a device l4-vxlan0 of kind dummy already"),
    ],
)
def test_what_stands_in_the_way_is_refused(mode: str, differing: dict[str, Any], message: str) -> None:
    found = parse_overlay(asked(mode))
    there = around(found, **differing)
    told = list(overlay._problems(found, overlay.compile_overlay(found, there), there))
    assert message in told[0]
    assert "\n" not in told[0]


def test_tunnels_of_others_with_another_id_or_port_are_no_problem() -> None:
    found = parse_overlay(asked("vxlan"))
    there = around(found, tunnels=[OtherTunnel("flannel.1", 4004, 8472), OtherTunnel("vxlan.calico", 1, 4789)])
    assert list(overlay._problems(found, overlay.compile_overlay(found, there), there)) == []


# getting there


macs = st.integers(0, 3).map(lambda number: f"02:4c:00:00:00:{number:02x}")
inner = st.integers(0, 3).map(lambda number: f"169.254.0.{number}")
items: st.SearchStrategy[Item] = st.one_of(
    st.builds(InnerAddress, inner.map(lambda one: f"{one}/32")),
    st.builds(Forwarding, macs, inner),
    st.builds(Neighbour, inner, macs),
    st.builds(
        Route, st.sampled_from(["10.0.1.0/24", "10.0.2.0/24"]), inner, st.sampled_from([DEVICE, "eth0"]), st.just(0)
    ),
)
tunnels = st.builds(Tunnel, st.integers(1, 2), st.just(4789), inner, macs, st.sampled_from([1400, 1450]), st.booleans())


@st.composite
def states(draw: st.DrawFn) -> list[Item]:
    """What a kernel may hold: on the device only what has it."""
    found = {key(one): one for one in draw(st.lists(items, max_size=6))}
    tunnel = draw(st.none() | tunnels)
    if tunnel is None:
        return [one for one in found.values() if isinstance(one, Route) and one.device != DEVICE]
    return [tunnel, *found.values()]


class FakeKernel:
    """Holds items by their keys, and refuses what rtnetlink would."""

    def __init__(self, held: Sequence[Item]) -> None:
        self.held = {key(one): one for one in held}

    def change(self, old: Item | None, new: Item | None) -> None:
        one = new if new is not None else old
        assert one is not None
        assert self.held.get(key(one)) == old
        if isinstance(one, Tunnel):
            if new is None:
                assert not [other for other in self.held.values() if other != one and not is_elsewhere(other)]
            elif old is not None:
                assert one.is_same_device(old)  # type: ignore[arg-type]
        elif not is_elsewhere(one):
            assert (Tunnel,) in self.held
        if new is None:
            del self.held[key(one)]
        else:
            self.held[key(new)] = new


def is_elsewhere(item: Item) -> bool:
    return isinstance(item, Route) and item.device != DEVICE


@given(states(), states())
def test_a_plan_leads_there_and_its_inverse_back(held: list[Item], wanted: list[Item]) -> None:
    kernel = FakeKernel(held)
    changes = plan(wanted, held)
    for change in changes:
        kernel.change(*change)
    assert kernel.held == {key(one): one for one in wanted}
    assert plan(wanted, list(kernel.held.values())) == []
    assert (changes == []) == (diff(changes) == {"before": "", "after": ""})
    for change in reversed(changes):
        kernel.change(*change.inverse)
    assert kernel.held == {key(one): one for one in held}


def test_a_network_is_never_without_its_route_on_a_switch() -> None:
    found = parse_overlay(asked("routes"))
    routes = overlay.compile_overlay(found, around(found))
    tunnel = parse_overlay(asked("vxlan"))
    changes = plan(overlay.compile_overlay(tunnel, around(tunnel)), routes)
    assert [one for one in changes if one.new is None] == []
    back = plan(routes, overlay.compile_overlay(tunnel, around(tunnel)))
    assert [one.new for one in back[:2]] == routes
    assert back[-1].old == overlay.compile_overlay(tunnel, around(tunnel))[0]


def test_the_diff_is_in_the_words_of_the_tools() -> None:
    found = parse_overlay(asked("vxlan"))
    told = diff(plan(overlay.compile_overlay(found, around(found)), []))
    assert told["after"] == (
        "# ip -d link\n"
        "l4-vxlan0: mtu 1450 state UP link/ether 02:4c:c0:00:02:01 vxlan id 4004 local 192.0.2.1 dstport 4789 nolearning\n"
        "# sysctl\n"
        "net.ipv4.conf.l4-vxlan0.rp_filter = 2\n"
        "# ip address\n"
        "inet 169.254.2.1/32 scope global l4-vxlan0\n"
        "inet6 fd4c:3400::c000:201/128 scope global l4-vxlan0\n"
        "# bridge fdb\n"
        "02:4c:c0:00:02:02 dev l4-vxlan0 dst 192.0.2.2 self permanent\n"
        "# ip neigh\n"
        "169.254.2.2 dev l4-vxlan0 lladdr 02:4c:c0:00:02:02 PERMANENT\n"
        "fd4c:3400::c000:202 dev l4-vxlan0 lladdr 02:4c:c0:00:02:02 PERMANENT\n"
        "# ip route\n"
        "10.0.2.0/24 via 169.254.2.2 dev l4-vxlan0 proto 76 onlink\n"
        "169.254.2.2 dev l4-vxlan0 proto 76\n"
        "fd00:2::/64 via fd4c:3400::c000:202 dev l4-vxlan0 proto 76 onlink\n"
        "fd4c:3400::c000:202 dev l4-vxlan0 proto 76\n"
    )
    assert (
        text(Route("0.0.0.0/0", "192.0.2.9", "eth0", 100, protocol=3))
        == "default via 192.0.2.9 dev eth0 proto 3 metric 100"
    )


@given(states())
def test_what_is_kept_for_boot_is_read_as_it_was_written(held: list[Item]) -> None:
    assert boot_overlay.decode(boot_overlay.encode(held)) == held


@pytest.mark.parametrize(
    "content", [b"x", b'["Socket", 1]\n', b'["Forwarding", "02:4c:00:00:00:01"]\n', b'["ReversePath", "2"]\n']
)
def test_a_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(BootError, match="no list of what makes an overlay"):
        boot_overlay.decode(content)


# the inventory


def inventory(**hosts: dict[str, Any]) -> dict[str, Any]:
    return {
        "groups": {"service_proxy": list(hosts)},
        "hostvars": {
            host: {f"service_proxy_{key}": value for key, value in found.items()} for host, found in hosts.items()
        },
    }


def others(variables: dict[str, Any], host: str = "node1", **settings: Any) -> list[dict[str, Any]]:
    return other_nodes(asked("routes", **settings), host, variables, "service_proxy_")


def test_the_nodes_are_those_of_the_group_but_those_that_take_no_part() -> None:
    variables = inventory(
        node1={},
        node2={"overlay_address": "192.0.2.2", "backend_cidrs": ["10.0.2.0/24"], "overlay": "routes"},
        node3={"overlay": "none"},
        node4={"state": "absent"},
        node5={"name": "five"},
    )
    variables["hostvars"]["node5"]["ansible_host"] = "192.0.2.5"
    expected = [
        {"name": "node2", "address": ["192.0.2.2"], "cidrs": ["10.0.2.0/24"]},
        {"name": "five", "address": ["192.0.2.5"], "cidrs": []},
    ]
    assert others(variables) == expected
    assert others({**variables, "groups": {}, "ansible_play_hosts_all": list(variables["hostvars"])}) == expected
    assert others({**variables, "groups": {"edge": ["node1", "node2"]}, "service_proxy_group": "edge"}) == expected[:1]


def test_nodes_that_differ_about_the_overlay_are_told() -> None:
    with pytest.raises(
        DifferentOverlays, match="service_proxy_overlay is routes on node1 and vxlan on node2: must be the same"
    ):
        others(inventory(node1={}, node2={"overlay": "vxlan"}))
    with pytest.raises(DifferentOverlays, match="service_proxy_vxlan_port is 4789 on node1 and 8472 on node2"):
        others(inventory(node1={}, node2={"vxlan_port": 8472}))
    assert others(inventory(node1={}, node2={"vxlan_port": "4789"}))


@pytest.mark.parametrize(
    ("given", "variables", "address"),
    [
        (["192.0.2.1", "2001:db8::1"], {"ansible_host": "198.51.100.1"}, ["192.0.2.1", "2001:db8::1"]),
        ("192.0.2.1, 2001:db8::1", {}, ["192.0.2.1", "2001:db8::1"]),
        (None, {"ansible_host": "198.51.100.1"}, ["198.51.100.1"]),
        (None, {"ansible_host": "node1.example"}, []),
        (None, {}, []),
    ],
)
def test_an_address_is_given_or_that_of_the_connection(
    given: Any, variables: dict[str, Any], address: list[str]
) -> None:
    assert own_address(given, "node1", variables) == address
    assert own_address(None, "192.0.2.7", {}) == ["192.0.2.7"]


def test_a_tunnel_that_is_down_or_learns_is_told() -> None:
    tunnel = Tunnel(4004, 4789, "192.0.2.1", "02:00:00:00:00:01", 1450)
    assert " state UP " in text(tunnel)
    assert text(tunnel).endswith(" nolearning")
    assert " state DOWN " in text(tunnel._replace(is_up=False))
    assert text(tunnel._replace(learning=True)).endswith(" learning")
