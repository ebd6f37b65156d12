# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, line 18, where it is hardest: the last service of a node goes, and its connections live on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from network import ADDRESSES, IPV4, IPV6, Network, backends, vip

from lab.traffic import LongLivedConnection, Servers

STEADY_PORT = 9000


def _web(family: str, **options: Any) -> dict[str, Any]:
    at = backends("b11", family=family, port=STEADY_PORT)
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": at, **options}


@pytest.fixture(name="bare")
def _bare(network: Network, family: str) -> Iterator[str]:
    """A steady server, and a node that has nothing of ours and tracks no connection; its rules."""
    with Servers() as servers:
        servers.serve(network.hosts["b11"], "steady", ADDRESSES["b11"][family], STEADY_PORT, keep_open=True)
        # iptables-nft makes a family's tables when they are first used.
        network.applied([_web(one, name=one) for one in (IPV4, IPV6)])
        network.applied([], state="absent")
        network.hosts["node1"].run("conntrack", "-F")
        yield network.rules()
        network.applied([], state="absent")


def _forgotten(network: Network, family: str) -> None:
    """Wait until the connections that clients have closed are over for conntrack, too."""
    deadline, listed = time.monotonic() + 5, ""
    while time.monotonic() < deadline:
        listed = network.hosts["node1"].run("conntrack", "-L", "-p", "tcp", "-f", family).stdout
        if not any(state in listed for state in ("ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK")):
            return
        time.sleep(0.1)
    raise AssertionError(listed)


@pytest.mark.iptables_only
@pytest.mark.semantics(18)
@pytest.mark.parametrize("way", ["by name", "by an empty list"])
def test_connections_outlive_the_only_service_of_a_node(network: Network, family: str, bare: str, way: str) -> None:
    network.applied([_web(family)])
    how: dict[str, Any] = {"state": "absent", "exclusive": False} if way == "by name" else {}
    wish = [{"name": "web"}] if way == "by name" else []
    with LongLivedConnection(network.hosts["client"], vip(1, family), 80) as connection:
        predicted = network.apply(wish, check=True, **how)
        removed = network.applied(wish, **how)
        assert predicted == removed
        assert removed["removed"] == ["web"]
        assert connection.ask().backend == "steady"
        assert '"web: ' not in network.rules()
        assert network.ask("client", vip(1, family), 80, timeout=1.2).answered == 0
        assert not network.applied(wish, **how)["changed"]
        assert connection.ask().backend == "steady"
    _forgotten(network, family)
    predicted = network.apply(wish, check=True, **how)
    swept = network.applied(wish, **how)
    assert predicted == swept
    assert swept["changed"]
    assert network.rules() == bare
    assert not network.applied(wish, **how)["changed"]


@pytest.mark.iptables_only
@pytest.mark.semantics(18)
def test_without_connections_everything_goes_with_the_last_service(network: Network, family: str, bare: str) -> None:
    network.applied([_web(family)])
    assert network.ask("client", vip(1, family), 80).answered == 1
    _forgotten(network, family)
    network.applied([{"name": "web"}], state="absent", exclusive=False)
    assert network.rules() == bare


@pytest.mark.iptables_only
@pytest.mark.semantics(18)
def test_removing_everything_at_once_does_not_wait(network: Network, family: str, bare: str) -> None:
    network.applied([_web(family)])
    with LongLivedConnection(network.hosts["client"], vip(1, family), 80):
        network.applied([], state="absent")
        assert network.rules() == bare


@pytest.mark.iptables_only
@pytest.mark.semantics(18)
def test_udp_flows_hold_nothing_up(network: Network, bare: str) -> None:
    network.applied([_web(IPV4, protocol="udp", backends=backends("b11"))])
    with LongLivedConnection(network.hosts["client"], vip(1, IPV4), 80, "udp"):
        assert network.applied([])["conntrack_deleted"] == 1
        assert network.rules() == bare
