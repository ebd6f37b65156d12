# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 16 to 18: what is rejected, what is dropped, and what is gone."""

from __future__ import annotations

from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, balancer_ip, external_ip, vip

from lab.traffic import LongLivedConnection, Servers


def _everywhere(family: str, **options: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "vip": vip(1, family),
        "external_ips": [external_ip(1, family)],
        "load_balancer_ips": [balancer_ip(1, family)],
        "port": 80,
        "node_port": 30080,
        **options,
    }


def _ways(family: str) -> list[tuple[str, int]]:
    return [
        (vip(1, family), 80),
        (external_ip(1, family), 80),
        (balancer_ip(1, family), 80),
        (ADDRESSES["node1"][family], 30080),
    ]


@pytest.mark.semantics(16)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["client", "b11", "node1"])
def test_without_backends_a_connection_is_rejected_at_once(
    network: Network, family: str, protocol: str, source: str
) -> None:
    """A datagram of the node itself is refused in sendto(2) already, as EPERM."""
    network.applied([_everywhere(family, protocol=protocol)])
    kind = "denied" if (protocol, source) == ("udp", "node1") else "refused"
    for address, port in _ways(family):
        tally = network.ask(source, address, port, protocol, count=3, timeout=4)
        assert tally.failures == {kind: 3}, (address, tally)
        assert tally.slowest < 2.5


@pytest.mark.semantics(16)
def test_new_backends_end_the_rejecting_and_the_last_one_begins_it(network: Network, family: str) -> None:
    for names, expected in (((), "refused"), (("b11",), "answered"), ((), "refused")):
        network.applied([_everywhere(family, backends=backends(*names, family=family))])
        for address, port in _ways(family):
            tally = network.ask("client", address, port, count=2, timeout=4)
            if expected == "refused":
                assert tally.failures == {"refused": 2}, (address, tally)
            else:
                assert tally.answered == 2, (address, tally)


CLIENT_RANGE = {IPV4: "192.0.2.100/32", IPV6: "2001:db8::100/128"}
NODE_RANGE = {IPV4: "192.0.2.1/32", IPV6: "2001:db8::1/128"}
ELSEWHERE = {IPV4: "172.16.0.0/12", IPV6: "fd77::/16"}


@pytest.mark.semantics(17)
def test_source_ranges_drop_all_others_at_load_balancer_addresses_alone(network: Network, family: str) -> None:
    web = _everywhere(family, backends=backends("b11", family=family))
    balanced = balancer_ip(1, family)
    network.applied([{**web, "source_ranges": [CLIENT_RANGE[family]]}])
    assert network.ask("client", balanced, 80, count=3).answered == 3
    for source in ("b12", "node1"):
        assert network.ask(source, balanced, 80, count=2, timeout=2.5).failures == {"timeout": 2}
    network.applied([{**web, "source_ranges": [ELSEWHERE[family]]}])
    assert network.ask("client", balanced, 80, count=2, timeout=2.5).failures == {"timeout": 2}
    for address, port in _ways(family):
        if address != balanced:
            assert network.ask("client", address, port, count=3).answered == 3, address


@pytest.mark.semantics(17)
def test_a_range_that_covers_the_node_lets_it_and_the_address_itself_pass(network: Network, family: str) -> None:
    balanced, node = balancer_ip(1, family), network.hosts["node1"]
    length = {IPV4: "32", IPV6: "128"}[family]
    web = _everywhere(family, backends=backends("b11", family=family), source_ranges=[NODE_RANGE[family]])
    network.applied([web])
    assert network.ask("node1", balanced, 80, count=3).answered == 3
    node.add_address("lo", f"{balanced}/{length}")
    try:
        tally = network.ask("node1", balanced, 80, count=3, source=balanced)
    finally:
        node.ip("address", "delete", f"{balanced}/{length}", "dev", "lo")
    assert tally.answered == 3, tally


@pytest.mark.semantics(17)
def test_ranges_of_the_other_family_alone_let_nobody_pass(network: Network, family: str) -> None:
    other = {IPV4: "::/0", IPV6: "0.0.0.0/0"}[family]
    network.applied([_everywhere(family, backends=backends("b11", family=family), source_ranges=[other])])
    tally = network.ask("client", balancer_ip(1, family), 80, count=2, timeout=2.5)
    assert tally.failures == {"timeout": 2}
    everyone = {IPV4: "0.0.0.0/0", IPV6: "::/0"}[family]
    network.applied([_everywhere(family, backends=backends("b11", family=family), source_ranges=[everyone])])
    assert network.ask("client", balancer_ip(1, family), 80, count=3).answered == 3


@pytest.mark.semantics(17)
def test_without_backends_the_admitted_are_rejected_and_others_dropped(network: Network, family: str) -> None:
    network.applied([_everywhere(family, source_ranges=[CLIENT_RANGE[family]])])
    balanced = balancer_ip(1, family)
    assert network.ask("client", balanced, 80, count=2, timeout=4).failures == {"refused": 2}
    assert network.ask("b12", balanced, 80, count=2, timeout=2.5).failures == {"timeout": 2}


@pytest.mark.iptables_only
@pytest.mark.semantics(18)
def test_a_removed_service_stops_answering_and_leaves_nothing_but_its_connections(
    network: Network, family: str
) -> None:
    at = ADDRESSES["b11"][family]
    with Servers() as servers:
        servers.serve(network.hosts["b11"], "steady", at, 9000, keep_open=True)
        other = {"name": "other", "vip": vip(2, family), "port": 80, "backends": backends("b12", family=family)}
        web = _everywhere(family, backends=backends("b11", family=family, port=9000))
        network.applied([other])
        before = network.rules()
        network.applied([web, other])
        with LongLivedConnection(network.hosts["client"], vip(1, family), 80) as connection:
            removed = network.applied([{"name": "web"}], state="absent", exclusive=False)
            assert removed["removed"] == ["web"]
            assert network.rules() == before
            assert connection.ask().backend == "steady"
            assert network.ask("client", vip(1, family), 80, timeout=1.5).answered == 0
