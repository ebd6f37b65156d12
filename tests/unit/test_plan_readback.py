# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services compiled to rules and read back from them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.readback import (
    BackendOf,
    ObservedService,
    Refusal,
    backends_in,
    claims_of,
    entries,
    observed_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.conflicts import claims
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import ChainKey, Observed, Rules

LAYOUT = Layout("L4")
NODE = parse_node(
    {"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/16", "fd00::/16"]}
)
WEB: dict[str, Any] = {
    "name": "web.v-1",
    "vip": ["10.96.0.9", "10.96.0.10", "fd96::1"],
    "external_ips": ["203.0.113.1"],
    "load_balancer_ips": ["198.51.100.1", "2001:db8:51::1"],
    "port": 80,
    "node_port": 30080,
    "backends": [
        {"address": "10.0.1.11", "port": 8080, "weight": 3, "node": "node1"},
        {"address": "10.0.1.12", "port": 8080, "node": "node2"},
        {"address": "fd00:1::11", "port": 8080, "node": "node1"},
    ],
}


def _observed(*services: dict[str, Any]) -> list[Observed]:
    """What the kernel holds after these were applied."""
    compiled = compile_services(parse_services(services, NODE), NODE)
    return [Observed({key: list(rules) for key, rules in one.chains.items()}) for one in compiled.values()]


def _read(**service: Any) -> ObservedService:
    (found,) = observed_services(_observed({**WEB, **service}), LAYOUT)
    return found


def test_a_service_comes_back_as_it_was_given() -> None:
    found = _read()
    assert (found.name, found.protocol, found.port, found.node_port) == ("web.v-1", "tcp", 80, 30080)
    assert found.vip == ["10.96.0.9", "10.96.0.10", "fd96::1"]
    assert found.external_ips == ["203.0.113.1"]
    assert found.load_balancer_ips == ["198.51.100.1", "2001:db8:51::1"]
    assert [(one.address, one.port, one.share) for one in found.backends] == [
        ("10.0.1.11", 8080, 0.75),
        ("10.0.1.12", 8080, 0.25),
        ("fd00:1::11", 8080, 1.0),
    ]
    assert {one.local_share for one in found.backends} == {None}


def test_an_external_ip_without_a_backend_in_its_family_is_among_the_refusals_alone() -> None:
    found = _read(external_ips=["2001:db8:113::1"], backends=[{"address": "10.0.1.11"}])
    assert found.external_ips == []
    assert Refusal("2001:db8:113::1", 80, "reject", "no backends") in found.refusals


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_equal_weights_are_equal_shares(count: int) -> None:
    backends = [{"address": f"10.0.1.{number + 1}"} for number in range(count)]
    shares = [one.share for one in _read(backends=backends).backends if ":" not in one.address]
    assert shares == pytest.approx([1 / count] * count, abs=1e-5)


def test_clients_that_come_back_do_not_count_in_shares() -> None:
    assert _read(session_affinity="client_ip").backends == _read().backends


def test_local_shares_are_told_from_those_of_all() -> None:
    found = _read(internal_traffic_policy="local", external_traffic_policy="local")
    assert [(one.address, one.share, one.local_share) for one in found.backends] == [
        ("10.0.1.11", 0.75, 1.0),
        ("10.0.1.12", 0.25, None),
        ("fd00:1::11", 1.0, 1.0),
    ]


def test_without_local_backends_the_policy_drops() -> None:
    elsewhere = [{"address": "10.0.1.12", "node": "node2"}]
    found = _read(vip="10.96.0.9", load_balancer_ips=[], internal_traffic_policy="local", backends=elsewhere)
    assert found.refusals == [Refusal("10.96.0.9", 80, "drop", "no local backends")]
    assert found.external_ips == ["203.0.113.1"]
    assert [one.share for one in found.backends] == [1.0]


def test_without_local_backends_the_external_policy_drops() -> None:
    elsewhere = [{"address": "10.0.1.12", "node": "node2"}]
    addresses = {"vip": "10.96.0.9", "load_balancer_ips": ["198.51.100.1"]}
    found = _read(**addresses, external_traffic_policy="local", backends=elsewhere)
    assert found.refusals == [
        Refusal(None, 30080, "drop", "no local backends"),
        Refusal("198.51.100.1", 80, "drop", "no local backends"),
        Refusal("203.0.113.1", 80, "drop", "no local backends"),
    ]


def test_without_backends_everything_is_refused() -> None:
    found = _read(vip="10.96.0.9", load_balancer_ips=[], backends=[], protocol="udp")
    assert (found.vip, found.external_ips, found.backends) == ([], [], [])
    assert found.refusals == [
        Refusal(None, 30080, "reject", "no backends"),
        Refusal("10.96.0.9", 80, "reject", "no backends"),
        Refusal("203.0.113.1", 80, "reject", "no backends"),
    ]


@pytest.mark.parametrize("backends", [[], WEB["backends"]])
def test_what_services_take_is_what_they_were_given(backends: list[dict[str, Any]]) -> None:
    other: dict[str, Any] = {"name": "other", "vip": "10.96.0.20", "port": 53, "protocol": "udp", "source_ranges": []}
    given = [{**WEB, "backends": backends}, other]
    read = {
        (entry.service, entry.protocol, entry.address, entry.port)
        for one in _observed(*given)
        for entry in entries(one, LAYOUT)
    }
    wanted = {
        (claim.service, claim.protocol, claim.address, claim.port)
        for service in parse_services(given, NODE)
        for claim in claims(service)
    }
    assert read == wanted


@pytest.mark.parametrize(
    ("at", "of", "taken"),
    [
        (None, None, {("one", "10.96.0.1"), ("one", None), ("two", "10.96.0.2")}),
        ({"10.96.0.2", None}, None, {("one", None), ("two", "10.96.0.2")}),
        (None, {"one"}, {("one", "10.96.0.1"), ("one", None)}),
        ({"10.96.0.2"}, {"one"}, set()),
    ],
)
def test_claims_are_those_at_some_addresses_and_of_some_services(at: Any, of: Any, taken: Any) -> None:
    one: dict[str, Any] = {"name": "one", "vip": "10.96.0.1", "port": 80, "node_port": 30080}
    observed, dummy = _observed(one, {"name": "two", "vip": "10.96.0.2", "port": 80})
    assert {(claim.service, claim.address) for claim in claims_of(observed, LAYOUT, at, of)} == taken


def test_backends_are_known_by_the_rules_that_translate_to_them() -> None:
    rules = [rule for rules in _observed(WEB)[0].chains.values() for rule in rules]
    wanted = [("tcp", "10.0.1.11", 8080), ("udp", "10.0.1.12", 8080), ("tcp", "10.0.1.1", 8080)]
    assert set(backends_in(rules, wanted)) == {BackendOf("web.v-1", "tcp", "10.0.1.11", 8080)}


def test_nothing_is_nothing() -> None:
    assert observed_services([Observed(), Observed()], LAYOUT) == []


def test_rules_of_nobody_are_passed_over() -> None:
    chains: dict[ChainKey, Rules] = {
        ("nat", "L4-SERVICES"): ["-j RETURN", '-p tcp -m comment --comment "by hand: no" -j ACCEPT']
    }
    assert observed_services([Observed(chains)], LAYOUT) == []
