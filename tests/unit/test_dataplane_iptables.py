# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the compiler writes, seen as a reader of `iptables-save` would; the kernel's view is in tests/integration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.summary import summarise
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import covering_networks
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import (
    ChainKey,
    Desired,
    Observed,
    Rules,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan

BACKENDS = [{"address": "10.0.0.11", "node": "node1"}, {"address": "10.0.0.12", "node": "node2"}]
OCTOPUS = {"name": "octopus-web", "vip": "172.20.0.115", "port": 80, "node_port": 30080, "backends": BACKENDS}


def _chains(service: dict[str, Any], family: str = "ipv4", **settings: Any) -> dict[ChainKey, Rules]:
    node = parse_node({"name": "node1", **settings})
    return compile_services(parse_services([service], node), node)[family].chains


def _kinds(chains: dict[ChainKey, Rules]) -> list[str]:
    return sorted({"-".join(chain.split("-")[1:2]) for dummy, chain in chains})


def test_the_layout_reads_like_kube_proxys() -> None:
    chains = _chains(OCTOPUS, chain_prefix="KUBE")
    names = {chain for dummy, chain in chains}
    assert {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-FORWARD"} <= names
    assert _kinds(chains) == sorted(
        [
            "BACKENDS",
            "EXT",
            "FIREWALL",
            "FORWARD",
            "INVALID",
            "MARK",
            "NODEPORTS",
            "POSTROUTING",
            "SEP",
            "SERVICES",
            "SVC",
        ]
    )
    assert sum(chain.startswith("KUBE-SEP-") for dummy, chain in chains) == 2


def test_a_service_of_one_family_has_no_rules_in_the_other() -> None:
    assert _chains(OCTOPUS, "ipv6") == {}


def test_names_of_chains_and_sets_fit_the_longest_prefix() -> None:
    layout = Layout("ABCDEFGH")
    names = [layout.chain_name(kind, "x" * 63, "[2001:db8::1]:65535") for kind in (*layout.PER_SERVICE, "AFF")]
    assert max(map(len, names)) <= 28
    assert max(len(layout.shared(name)) for dummy, name in layout.SHARED) <= 28


def test_the_last_of_the_remaining_backends_is_always_taken() -> None:
    three = [{"address": f"10.0.0.{n}"} for n in (1, 2, 3)]
    chains = _chains({**OCTOPUS, "backends": three, "node_port": None})
    rules = next(rules for (dummy, chain), rules in chains.items() if "-SVC-" in chain)
    chances = [rule.partition("--probability ")[2].split(" ")[0] for rule in rules]
    assert chances == ["0.33333333349", "0.50000000000", ""]


def test_endpoints_beyond_a_few_dozen_are_told_by_their_networks() -> None:
    few = covering_networks({"10.0.0.1", "10.0.0.9"}, 32)
    assert few == ["10.0.0.1/32", "10.0.0.9/32"]
    many = covering_networks({f"10.0.{n // 250}.{n % 250 + 1}" for n in range(10000)}, 32)
    assert many == [f"10.0.{n}.0/20" for n in (0, 16, 32)]
    assert covering_networks({f"fd00::{n:x}" for n in range(1, 100)}, 32) == ["fd00::/112"]
    assert covering_networks(set(), 32) == []


def test_localhost_is_guarded_without_services_too() -> None:
    """route_localnet is set by the setting, whatever services there are."""
    node = parse_node({"name": "node1", "localhost_node_ports": True})
    for services in ([], [{"name": "six", "vip": "fd00::1", "port": 80, "backends": [{"address": "fd00::11"}]}]):
        found = compile_services(parse_services(services, node), node)
        assert list(found["ipv4"].chains) == [("filter", "L4-LOCALHOST")]
        assert [(one.table, one.hook, one.position, one.anchored) for one in found["ipv4"].jumps] == [
            ("filter", "INPUT", "first", True)
        ]
    assert compile_services([], node)["ipv6"] == Desired()
    assert compile_services([], node._replace(localhost_node_ports=False))["ipv4"] == Desired()


def _services(count: int, **service: Any) -> list[dict[str, Any]]:
    return [
        {**OCTOPUS, "name": f"s{one}", "vip": f"10.96.0.{one}", "node_port": None, **service} for one in range(count)
    ]


def _summary(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """What becomes of services when those after take the place of those before."""
    node = parse_node({"name": "node1"})
    held, wanted = (compile_services(parse_services(raw, node), node) for raw in (before, after))
    observed = {family: Observed(dict(one.chains)) for family, one in held.items()}
    plans = [plan(one, observed[family]) for family, one in wanted.items()]
    return tuple(summarise(wanted.values(), observed.values(), plans, Layout("L4")))


def test_the_summary_names_what_comes_changes_and_goes() -> None:
    some = _services(4)
    new = {**OCTOPUS, "vip": ["10.96.1.1", "fd96::1"]}
    assert _summary(some, some) == ([], [], [])
    assert _summary(some, [*some[1:], new]) == (["octopus-web"], [], ["s0"])
    changes: list[dict[str, Any]] = [{"port": 81}, {"backends": BACKENDS[:1]}, {"backends": []}, {"node_port": 30081}]
    for change in changes:
        assert _summary(some, [*some[:2], {**some[2], **change}, some[3]]) == ([], ["s2"], [])
    assert _summary([], some) == (["s0", "s1", "s2", "s3"], [], [])
    assert _summary(some, []) == ([], [], ["s0", "s1", "s2", "s3"])


def test_a_service_with_one_more_address_or_one_less_is_changed() -> None:
    one, other = _services(2)
    more = {**one, "vip": [one["vip"], "10.96.1.1"]}
    assert _summary([one, other], [more, other]) == ([], ["s0"], [])
    assert _summary([more, other], [one, other]) == ([], ["s0"], [])


def test_services_whose_rules_only_move_in_the_tree_of_chains_are_not_changed() -> None:
    many, rest = _services(40), _services(20)
    assert _summary(many, rest) == ([], [], sorted(one["name"] for one in many[20:]))
    assert _summary(rest, many) == (sorted(one["name"] for one in many[20:]), [], [])
    assert _summary(many, [{**rest[0], "port": 81}, *rest[1:]])[1] == ["s0"]


def test_a_rule_without_a_comment_in_a_chain_of_one_service_is_a_change_of_it() -> None:
    node = parse_node({"name": "node1"})
    wanted = compile_services(parse_services(_services(3), node), node)["ipv4"]
    observed = Observed(dict(wanted.chains))
    chain = ("nat", Layout("L4").chain_name("SVC", "s1"))
    observed.chains[chain] = ["-s 192.0.2.7/32 -j RETURN", *observed.chains[chain]]
    assert summarise([wanted], [observed], [plan(wanted, observed)], Layout("L4")) == ([], ["s1"], [])


def test_all_that_is_made_is_ours_and_nothing_that_looks_like_it() -> None:
    layout, node = Layout("L4"), parse_node({"name": "node1"})
    made = compile_services(parse_services(_services(40), node), node)["ipv4"].chains
    assert set(_kinds(made)) > {"SVC", "SEP", "SERVICES", "10.96.0.0/28"}
    assert [key for key in made if not layout.is_ours(key)] == []
    service = next(name for dummy, name in made if name.startswith("L4-SVC-"))
    for key in (("filter", service), ("nat", service.lower()), ("nat", "L4-MINE"), ("nat", "INPUT"), ("nat", "L4-")):
        assert not layout.is_ours(key)
