# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, line 21: a client that keeps sending UDP from one port moves when it has to, and nobody else does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, PORT, Network, backends, balancer_ip, external_ip, vip

from lab.traffic import LongLivedConnection, Servers

NEW_PORT = 8081
KEEPING: dict[str, Any] = {"name": "keeping", "port": 7, "protocol": "sctp", "node_port": 30007}
"""A service that has the node track connections also while no other service does."""


def _dns(family: str, *names: str, **options: Any) -> dict[str, Any]:
    return {
        "name": "dns",
        "vip": vip(1, family),
        "external_ips": [external_ip(1, family)],
        "load_balancer_ips": [balancer_ip(1, family)],
        "node_port": 30053,
        "port": 53,
        "protocol": "udp",
        "backends": backends(*names, family=family),
        **options,
    }


def _ways(family: str) -> list[tuple[str, int]]:
    return [
        (vip(1, family), 53),
        (external_ip(1, family), 53),
        (balancer_ip(1, family), 53),
        (ADDRESSES["node1"][family], 30053),
    ]


class _Sender:
    """A UDP client that keeps one port."""

    def __init__(self, network: Network, host: str, to: tuple[str, int]) -> None:
        self._socket = network.hosts[host].socket(
            socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM
        )
        self._socket.connect(to)

    def ask(self, timeout: float = 2.0) -> str:
        """Who answers the next datagram; ``refused`` or ``nobody``."""
        self._socket.settimeout(timeout)
        try:
            self._socket.send(b"?\n")
            return self._socket.recv(4096).decode().split()[0]
        except ConnectionRefusedError:
            return "refused"
        except socket.timeout:  # TimeoutError, from Python 3.10 on
            return "nobody"

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(name="senders")
def _senders(network: Network, family: str) -> Iterator[list[_Sender]]:
    """One from outside and one local source to each address of the service; the node itself to its VIP."""
    with ExitStack() as stack:
        made = [_Sender(network, host, to) for host in ("client", "b21") for to in _ways(family)]
        made.append(_Sender(network, "node1", (vip(1, family), 53)))
        for sender in made:
            stack.callback(sender.close)
        yield made


def _answers(senders: list[_Sender], **how: Any) -> set[str]:
    return {sender.ask(**how) for sender in senders}


def _entry(family: str, to: tuple[str, int], backend: tuple[str, int], protocol: str = "udp", port: int = 4000) -> str:
    """An entry as conntrack(8) is told to make it: from the outside client."""
    source = ADDRESSES["client"][family]
    states = {"udp": "", "tcp": "--state ESTABLISHED", "sctp": "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2"}
    original = f"-p {protocol} -s {source} -d {to[0]} --sport {port} --dport {to[1]}"
    reply = f"-r {backend[0]} -q {source} --reply-port-src {backend[1]} --reply-port-dst {port}"
    return f"{original} {reply} -t 300 {states[protocol]}"


def _insert(network: Network, *entries: str) -> None:
    for entry in entries:
        network.hosts["node1"].run("conntrack", "-I", *entry.split())


def _held(network: Network, family: str, protocol: str, to: str) -> int:
    """How many entries node1 has to a destination."""
    listed = network.hosts["node1"].run("conntrack", "-L", "-f", family, "-p", protocol, "-d", to)
    return len(listed.stdout.splitlines())


def _assert_forgotten(network: Network, result: dict[str, Any], flows: int) -> None:
    """All of them by the run, but for those that IPVS itself has forgotten before, with the destination that went."""
    forgotten = result["conntrack_deleted"]
    assert forgotten == flows if network.dataplane == "iptables" else forgotten <= flows, forgotten


@pytest.mark.semantics(21)
def test_a_sender_moves_when_its_backend_is_removed(network: Network, family: str, senders: list[_Sender]) -> None:
    network.applied([_dns(family, "b11")])
    assert _answers(senders) == {"b11"}
    changed = network.applied([_dns(family, "b12")])
    _assert_forgotten(network, changed, len(senders))
    assert _answers(senders) == {"b12"}


@pytest.mark.semantics(21)
def test_a_sender_moves_when_the_port_of_its_backend_changes(
    network: Network, family: str, senders: list[_Sender]
) -> None:
    with Servers() as servers:
        servers.serve(network.hosts["b11"], "moved", ADDRESSES["b11"][family], NEW_PORT, "udp")
        network.applied([_dns(family, "b11")])
        assert _answers(senders) == {"b11"}
        network.applied([_dns(family, backends=backends("b11", family=family, port=NEW_PORT))])
        assert _answers(senders) == {"moved"}


@pytest.mark.semantics(21)
def test_a_sender_is_led_to_the_first_backend(network: Network, family: str) -> None:
    """Both that it was rejected before, and that it was let pass unchanged because there was no service."""
    to = (vip(1, family), 53)
    sender = _Sender(network, "client", to)
    try:
        network.applied([{**KEEPING, "vip": vip(9, family)}])
        assert sender.ask(timeout=0.3) == "nobody"
        assert _held(network, family, "udp", to[0]) == 1
        network.applied([_dns(family), {**KEEPING, "vip": vip(9, family)}])
        assert _held(network, family, "udp", to[0]) == 1, "no backend: nowhere to move to"
        assert network.applied([_dns(family, "b11")])["conntrack_deleted"] == 1
        assert sender.ask() == "b11"
        network.applied([_dns(family)])
        assert sender.ask() == "refused"
        network.applied([_dns(family, "b12")])
        assert sender.ask() == "b12"
    finally:
        sender.close()


@pytest.mark.semantics(21)
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_sender_moves_when_its_service_is_deleted(
    network: Network, family: str, senders: list[_Sender], exclusive: bool
) -> None:
    keeping = {**KEEPING, "vip": vip(9, family)}
    network.applied([_dns(family, "b11"), keeping])
    assert _answers(senders) == {"b11"}
    left: list[dict[str, Any]]
    how: dict[str, Any]
    left, how = ([keeping], {}) if exclusive else ([{"name": "dns"}], {"state": "absent", "exclusive": False})
    gone = network.applied(left, **how)
    assert gone["removed"] == ["dns"]
    _assert_forgotten(network, gone, len(senders))
    assert sum(_held(network, family, "udp", address) for address, _port in _ways(family)) == 0
    network.applied([{**_dns(family, "b12"), "name": "successor"}, keeping])
    assert _answers(senders) == {"b12"}


@pytest.mark.semantics(21)
def test_a_sender_to_an_address_that_its_service_leaves_is_let_go(network: Network, family: str) -> None:
    network.applied([_dns(family, "b11")])
    with LongLivedConnection(network.hosts["client"], vip(1, family), 53, "udp") as connection:
        assert connection.first.backend == "b11"
        moved = network.applied([_dns(family, "b11", vip=vip(2, family))], exclusive=False)
        assert moved["updated"] == ["dns"]
        _assert_forgotten(network, moved, 1)
        assert _held(network, family, "udp", vip(1, family)) == 0


@pytest.mark.semantics(21)
def test_senders_whose_backend_stays_stay_with_it(network: Network, family: str, senders: list[_Sender]) -> None:
    """Also when it takes no new ones: weight 0, or about to go while it serves."""
    network.applied([_dns(family, "b11")])
    assert _answers(senders) == {"b11"}
    for state in ({}, {"weight": 0}, {"ready": False, "serving": True, "terminating": True}):
        leaving = backends("b11", family=family, **state)
        changed = network.applied([_dns(family, backends=leaving + backends("b12", family=family))])
        assert changed["conntrack_deleted"] == 0
        assert _answers(senders) == {"b11"}
    leaving = backends("b11", family=family, ready=False)
    network.applied([_dns(family, backends=leaving + backends("b12", family=family))])
    assert _answers(senders) == {"b12"}


@pytest.mark.iptables_only
@pytest.mark.semantics(21)
def test_only_stale_udp_entries_to_our_destinations_are_deleted(network: Network, family: str) -> None:
    other = {IPV4: IPV6, IPV6: IPV4}[family]
    at, gone = (ADDRESSES["b11"][family], PORT), (ADDRESSES["b12"][family], PORT)
    ours, foreign = (vip(1, family), 53), ("192.0.2.200" if family == IPV4 else "2001:db8::200", 53)
    elsewhere = [(ours[0], 54), (ours[0], 30053), foreign, (foreign[0], 30053), (ADDRESSES["node1"][family], 53)]
    network.applied([_dns(family, "b11", "b12")])
    node = ADDRESSES["node1"]
    survivors = [
        _entry(family, ours, at),
        _entry(family, ours, gone, "tcp"),
        _entry(family, ours, gone, "sctp"),
        *(_entry(family, to, gone, port=4001 + number) for number, to in enumerate(elsewhere)),
        _entry(other, (node[other], 30053), (ADDRESSES["b12"][other], PORT)),
    ]
    stale = [
        _entry(family, to, gone, port=5000 + n) for n, to in enumerate([ours, (ADDRESSES["bridge1"][family], 30053)])
    ]
    network.hosts["node1"].run("conntrack", "-F")
    _insert(network, *survivors, *stale)
    before = network.hosts["node1"].run("conntrack", "-L", "-f", family).stdout.count("\n")
    changed = [_dns(family, "b11")]
    assert network.apply(changed, check=True)["conntrack_deleted"] == 2
    assert network.hosts["node1"].run("conntrack", "-L", "-f", family).stdout.count("\n") == before
    assert network.applied(changed)["conntrack_deleted"] == 2
    for line in survivors:
        words = line.split()[: line.split().index("-r")]
        listed = network.hosts["node1"].run("conntrack", "-L", "-f", IPV6 if ":" in line else IPV4, *words).stdout
        assert len(listed.splitlines()) == 1, line
    assert _held(network, family, "udp", ours[0]) == 3
    network.hosts["node1"].run("conntrack", "-F")


@pytest.mark.iptables_only
@pytest.mark.semantics(21)
def test_a_run_that_changes_no_rule_heals_one_that_was_interrupted(network: Network, family: str) -> None:
    """Killed between the rules and conntrack, a run leaves the one changed and the other not."""
    network.applied([_dns(family, "b12")])
    changed = network.save(family)
    network.applied([_dns(family, "b11")])
    with LongLivedConnection(network.hosts["client"], vip(1, family), 53, "udp") as connection:
        network.restore(family, changed)
        assert connection.ask().backend == "b11"
        healed = network.applied([_dns(family, "b12")])
        assert (healed["changed"], healed["conntrack_deleted"]) == (False, 1)
        assert connection.ask().backend == "b12"


@pytest.mark.semantics(21)
def test_a_run_looks_only_at_the_services_that_it_names(network: Network, family: str) -> None:
    other = {"name": "other", "vip": vip(2, family), "port": 53, "protocol": "udp"}
    both = [_dns(family, "b11"), {**other, "backends": backends("b11", family=family)}]
    network.applied(both)
    _insert(network, _entry(family, (vip(2, family), 53), (ADDRESSES["b12"][family], PORT)))
    assert network.applied(both[:1], exclusive=False)["conntrack_deleted"] == 0
    assert network.applied(both)["conntrack_deleted"] == 1


@pytest.mark.iptables_only
def test_ten_thousand_stale_flows_are_no_burden(network: Network, tmp_path: Any) -> None:
    network.applied([_dns(IPV4, "b11")])
    target, stale = (vip(1, IPV4), 53), (ADDRESSES["b12"][IPV4], PORT)
    entries = tmp_path / "entries"
    lines = ["-I " + _entry(IPV4, target, stale, port=10000 + number) + "\n" for number in range(10000)]
    entries.write_text("".join(lines))
    network.hosts["node1"].run("conntrack", "--load-file", str(entries))
    assert network.applied([_dns(IPV4, "b11")])["conntrack_deleted"] == 10000
    assert network.applied([_dns(IPV4, "b11")])["conntrack_deleted"] == 0
