# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trees of destinations and of chances, as a reader of `iptables-save` would see them.

That trees behave as lists do is in test_properties, which runs on both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables import dispatch
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.readback import (
    observed_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.rule_match import parse_rule
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import (
    ChainKey,
    Desired,
    Observed,
    Rules,
    target_of,
)

Raw = dict[str, Any]
MANY = 3000
FIRST, NAT_FIRST = "L4-SERVICES", ("nat", "L4-SERVICES")
RESOLUTION = Fraction(1, 1 << 31)


def _service(number: int, **keys: Any) -> Raw:
    vip = f"10.96.{number >> 8}.{number & 255}"
    return {"name": f"s{int(number):05}", "vip": vip, "port": 80, "backends": [{"address": "10.0.0.1"}], **keys}


def _compiled(raw: Sequence[Raw], prefix: str = "L4") -> dict[str, Desired]:
    node = parse_node({"name": "node1", "addresses": ["192.0.2.1"], "chain_prefix": prefix})
    return compile_services(parse_services(raw, node), node)


@pytest.fixture(scope="module")
def many() -> Desired:
    return _compiled([_service(number) for number in range(1, MANY + 1)])["ipv4"]


def _asked(state: Desired, key: ChainKey, packet: Packet) -> tuple[int, str]:
    """How many rules are asked until one leads out of the tree, and to where; nowhere: the empty text."""
    count = 0
    for text in state.chains[key]:
        count += 1
        rule = parse_rule(text)
        if rule.chance(packet) != 1:
            continue
        target = (key[0], rule.target)
        if Layout("L4").dispatch(target) is None:
            return count, rule.target
        below, found = _asked(state, target, packet)
        count += below
        if found:
            return count, found
    return count, ""


def _packet(destination: str, port: int = 80) -> Packet:
    return Packet("192.0.2.100", destination, "tcp", port, ("192.0.2.1",))


@pytest.mark.parametrize("number", [1, 2, 16, 255, 256, 1500, MANY - 1, MANY])
def test_each_of_many_services_is_found_after_few_rules(many: Desired, number: int) -> None:
    count, target = _asked(many, NAT_FIRST, _packet(_service(number)["vip"]))
    assert target == Layout("L4").chain_name("SVC", f"s{int(number):05}")
    assert count <= 60


@pytest.mark.parametrize("destination", ["192.0.2.1", "10.95.0.1", "10.97.0.1", "8.8.8.8", "10.96.15.1"])
def test_traffic_for_no_service_meets_few_rules(many: Desired, destination: str) -> None:
    count, target = _asked(many, NAT_FIRST, _packet(destination))
    assert target == ""
    assert count <= 20


def test_another_port_of_a_vip_is_nobodys(many: Desired) -> None:
    assert _asked(many, NAT_FIRST, _packet("10.96.1.1", 81))[1] == ""


def test_few_services_are_a_list() -> None:
    few = _compiled([_service(number) for number in range(1, dispatch.LONGEST_LIST + 1)])["ipv4"]
    assert len(few.chains[NAT_FIRST]) == dispatch.LONGEST_LIST
    assert {key for key in few.chains if Layout("L4").dispatch(key)} == {("filter", "L4-FIREWALL"), NAT_FIRST}


def test_a_tree_explains_itself(many: Desired) -> None:
    assert list(many.chains[NAT_FIRST]) == [
        f'-d 10.96.{number}.0/24 -m comment --comment "services in 10.96.{number}.0/24" -j L4-10.96.{number}.0/24'
        for number in range(MANY // 256 + 1)
    ]
    below = many.chains["nat", "L4-10.96.2.0/24"]
    assert below[1] == '-d 10.96.2.16/28 -m comment --comment "services in 10.96.2.16/28" -j L4-10.96.2.16/28'
    assert '-d 10.96.2.17/32 -p tcp -m comment --comment "s00529: vip"' in many.chains["nat", "L4-10.96.2.16/28"][1]


def test_one_more_service_changes_few_chains(many: Desired) -> None:
    more = _compiled([_service(number) for number in range(1, MANY + 2)])["ipv4"]
    differing = {key for key in set(many.chains) | set(more.chains) if many.chains.get(key) != more.chains.get(key)}
    changed = {name for dummy, name in differing if "-SVC-" not in name and "-SEP-" not in name}
    assert changed == {"L4-10.96.11.176/28"}


def test_ipv6_names_are_networks_with_dots_as_long_as_they_fit() -> None:
    backends = [{"address": "fd00::1"}]
    services = [_service(number, vip=f"fd00:96::{number:x}", backends=backends) for number in range(1, 600)]
    names = {name for dummy, name in _compiled(services)["ipv6"].chains}
    assert {"L4-fd00.96..100/120", "L4-fd00.96..1f0/124"} <= names
    for one in services:
        one["vip"] = one["vip"].replace("fd00:96::", "2001:db8:1111:2222:3333:4444:5555:")
    chains = _compiled(services, "LONGEST8")["ipv6"].chains
    first = chains["nat", "LONGEST8-SERVICES"]
    assert re.fullmatch(
        r'-d (2001:\S+/120) -m comment --comment "services in \1" -j LONGEST8-NET-[A-Z2-7]{15}', first[1]
    )
    assert max(len(name) for dummy, name in chains) <= 28


def test_many_ports_of_one_address_are_divided_by_port() -> None:
    services = [_service(1, name=f"p{port}", vip="10.96.0.1", port=port) for port in range(1, 2000)]
    state = _compiled(services)["ipv4"]
    assert state.chains[NAT_FIRST][1] == (
        '-d 10.96.0.1/32 -p tcp -m comment --comment "services on 10.96.0.1, tcp ports 256 to 511" '
        "-m tcp --dport 256:511 -j L4-10.96.0.1-tcp-256-511"
    )
    for port in (1, 255, 256, 1999):
        count, target = _asked(state, NAT_FIRST, _packet("10.96.0.1", port))
        assert target == Layout("L4").chain_name("SVC", f"p{port}")
        assert count <= 60
    assert _asked(state, NAT_FIRST, _packet("10.96.0.1", 2000))[1] == ""


def test_many_node_ports_are_divided_by_port() -> None:
    services = [_service(1, name=f"p{port}", vip=[], node_port=port) for port in range(30000, 31000)]
    state = _compiled(services)["ipv4"]
    assert state.chains["nat", "L4-NODEPORTS"][0] == (
        '-p tcp -m comment --comment "node ports, tcp ports 29952 to 30207" '
        "-m tcp --dport 29952:30207 -j L4-tcp-29952-30207"
    )
    for port in (30000, 30500, 30999):
        count, target = _asked(state, ("nat", "L4-NODEPORTS"), _packet("192.0.2.1", port))
        assert target == Layout("L4").chain_name("EXT", f"p{port}")
        assert count <= 60


def test_refusals_are_a_tree_as_well() -> None:
    state = _compiled([_service(number, backends=[]) for number in range(1, 600)])["ipv4"]
    count, target = _asked(state, ("filter", "L4-FIREWALL"), _packet("10.96.2.87"))
    assert (target, count <= 60) == ("REJECT", True)


def test_what_is_rejected_by_source_is_asked_before_what_is_dropped() -> None:
    ranges = [f"10.{number}.0.0/16" for number in range(100)]
    guarded = _service(1, load_balancer_ips=["203.0.113.1"], source_ranges=ranges, backends=[])
    rules = _compiled([guarded, *(_service(number, backends=[]) for number in range(2, 50))])["ipv4"].chains
    of_balancer = [rule for rules in rules.values() for rule in rules if "203.0.113.1/32" in rule and " -j " in rule]
    assert target_of(of_balancer[-1]) == "DROP"
    assert {target_of(rule) for rule in of_balancer[:-1]} - {"L4-203.0.113.1-tcp-80-80"} <= {
        "REJECT",
        "L4-203.0.113.0/28",
    }


def _chances(chains: dict[ChainKey, Rules], key: ChainKey) -> dict[str, Fraction]:
    """The exact chance of each backend's chain, as the kernel keeps it."""
    left, found = Fraction(1), {}
    for text in chains[key]:
        rule = parse_rule(text)
        target = ("nat", rule.target)
        given = [option.values[0] for option in rule.matches if option.name == "--probability"]
        share = left * (round(float(given[0]) / float(RESOLUTION)) * RESOLUTION if given else 1)
        below = {rule.target: Fraction(1)} if "-SEP-" in rule.target else _chances(chains, target)
        found.update({name: share * part for name, part in below.items()})
        left -= share
    assert left == 0
    return found


def _pool(weights: Sequence[int]) -> list[Raw]:
    return [{"address": f"10.1.{n // 200}.{n % 200 + 1}", "weight": weight} for n, weight in enumerate(weights)]


@pytest.mark.parametrize(
    "weights",
    [[1] * 300, list(range(1, 301)), [65535] * 299 + [1], [1] * 17, [1] * 2000],
    ids=["equal", "rising", "uneven", "17", "2000"],
)
def test_chances_follow_the_weights_in_a_tree(weights: list[int]) -> None:
    pool = _pool(weights)
    chains = _compiled([_service(1, name="web", backends=pool)])["ipv4"].chains
    layout = Layout("L4")
    found = _chances(chains, ("nat", layout.chain_name("SVC", "web")))
    wanted = {
        layout.chain_name("SEP", "web", f"{one['address']}:80"): Fraction(one["weight"], sum(weights)) for one in pool
    }
    assert found.keys() == wanted.keys()
    assert all(abs(found[name] - wanted[name]) < 4 * RESOLUTION for name in wanted)
    assert all(found.values())


@pytest.mark.parametrize("count", [300, 2000])
def test_the_last_of_many_backends_is_found_after_few_rules(count: int) -> None:
    chains = _compiled([_service(1, name="web", backends=_pool([1] * count))])["ipv4"].chains
    assert max(len(rules) for (dummy, name), rules in chains.items() if "-SVC-" in name or "-GRP-" in name) <= 16


def test_one_more_backend_changes_the_chances_above_it_alone() -> None:
    before, after = (_compiled([_service(1, backends=_pool([1] * count))])["ipv4"].chains for count in (300, 301))
    differing = [name for (table, name), rules in after.items() if before.get((table, name)) != rules]
    assert sorted(name.split("-")[1] for name in differing) == ["GRP", "GRP", "SEP", "SVC"]


def test_a_tree_of_backends_is_read_back() -> None:
    weights = list(range(1, 301))
    state = _compiled([_service(1, name="web", backends=_pool(weights))])["ipv4"]
    (found,) = observed_services([Observed(state.chains)], Layout("L4"))
    shares = {one.address: one.share for one in found.backends}
    assert shares == pytest.approx({one["address"]: one["weight"] / sum(weights) for one in _pool(weights)}, abs=2e-6)
