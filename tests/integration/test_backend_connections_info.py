# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to backends are counted where they are translated, and waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from network import ADDRESSES, Network, backends, vip

from lab.traffic import LongLivedConnection, Servers
from module_runner import run_module, run_module_ok

pytestmark = pytest.mark.parametrize("network", ["nft"], indirect=True)

STEADY = 9000


@pytest.fixture
def steady(network: Network, family: str) -> Iterator[str]:
    """The VIP of a service, on tcp and udp, of which b11 keeps connections open."""
    with Servers() as servers:
        for protocol in ("tcp", "udp"):
            servers.serve(network.hosts["b11"], "b11", ADDRESSES["b11"][family], STEADY, protocol, keep_open=True)
        web = {"vip": vip(1, family), "port": 80, "backends": backends("b11", family=family, port=STEADY)}
        network.applied([{**web, "name": "web"}, {**web, "name": "dns", "protocol": "udp"}])
        network.hosts["node1"].run("conntrack", "-F")
        yield vip(1, family)


def look(network: Network, family: str, wait: int = 0, **how: Any) -> dict[str, Any]:
    wanted = [
        {"address": ADDRESSES[name][family], "port": STEADY, "protocol": protocol}
        for name in ("b11", "b12")
        for protocol in ("tcp", "udp")
    ]
    return run_module_ok(network.hosts["node1"], "backend_connections_info", {"backends": wanted, "wait": wait}, **how)


def counts(result: dict[str, Any]) -> list[int]:
    """Of b11 by tcp and udp, and of b12."""
    assert not result["changed"]
    assert result["total"] == sum(backend["connections"] for backend in result["backends"])
    return [backend["connections"] for backend in result["backends"]]


def test_connections_are_counted_by_backend_and_protocol(network: Network, family: str, steady: str) -> None:
    client, node = network.hosts["client"], network.hosts["node1"]
    assert counts(look(network, family)) == [0, 0, 0, 0]
    with LongLivedConnection(client, steady, 80), LongLivedConnection(node, steady, 80):
        assert counts(look(network, family)) == [2, 0, 0, 0]
        with LongLivedConnection(client, steady, 80, "udp"):
            assert counts(look(network, family)) == [2, 1, 0, 0]


def test_connections_past_the_service_are_not_counted(network: Network, family: str, steady: str) -> None:
    assert steady
    with LongLivedConnection(network.hosts["node1"], ADDRESSES["b11"][family], STEADY):
        assert counts(look(network, family)) == [0, 0, 0, 0]


def test_waiting_ends_with_the_connection_or_with_the_time(network: Network, family: str, steady: str) -> None:
    with LongLivedConnection(network.hosts["client"], steady, 80) as connection:
        late = look(network, family, wait=2)
        assert counts(late) == [1, 0, 0, 0]
        assert late["waited"] >= 2
        began = time.monotonic()
        assert counts(look(network, family, wait=60, check=True)) == [1, 0, 0, 0]
        ends = threading.Timer(3, connection.close)
        ends.start()
        gone = look(network, family, wait=60)
        ends.join()
    assert counts(gone) == [0, 0, 0, 0]
    assert time.monotonic() - began < 50


def test_what_is_no_address_is_refused(network: Network) -> None:
    wanted = {"backends": [{"address": "web1", "port": 80}]}
    refused = run_module(network.hosts["node1"], "backend_connections_info", wanted)
    assert refused["failed"]
    assert refused["msg"] == 'backends: address is "web1": must be an IPv4 or IPv6 address'
