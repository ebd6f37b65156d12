# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, line 20, for as long as people scale: 200 times between 1 and 20 backends, under load."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, vip
from repetition import repetition

from lab.traffic import LongLivedConnection, Servers, Tally

MOST = 20
LONG_LIVED = 50
SEED = 20261121


def _backend(number: int) -> dict[str, Any]:
    return {"address": ADDRESSES[("b11", "b12")[number % 2]][IPV4], "port": 9000 + number}


def _scaled(numbers: list[int]) -> list[dict[str, Any]]:
    return [{"name": "web", "vip": vip(1, IPV4), "port": 80, "backends": [_backend(number) for number in numbers]}]


class Load:
    """New connections all the time, from a thread of its own; a context manager."""

    def __init__(self, network: Network) -> None:
        self.network, self.tallies = network, list[Tally]()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            self.tallies.append(self.network.ask("client", vip(1, IPV4), 80, count=20))
            self._done.wait(0.02)


@pytest.mark.iptables_only
@pytest.mark.semantics(20)
@pytest.mark.parametrize("times", [50, repetition(200)])
def test_scalings_under_load_fail_no_connection(network: Network, record_property: Any, times: int) -> None:
    """Those to backends that stay go on, and those to backends that were taken out go on, too."""
    chance = random.Random(SEED)
    with ExitStack() as stack:
        servers = stack.enter_context(Servers())
        for number in range(MOST):
            host = ("b11", "b12")[number % 2]
            servers.serve(network.hosts[host], f"s{number}", ADDRESSES[host][IPV4], 9000 + number, keep_open=True)
        network.applied(_scaled(list(range(MOST))))
        client = network.hosts["client"]
        connections = [
            stack.enter_context(LongLivedConnection(client, vip(1, IPV4), 80, timeout=10))
            for dummy in range(LONG_LIVED)
        ]
        first = [connection.first.backend for connection in connections]
        with Load(network) as load:
            for dummy in range(times):
                network.applied(_scaled(chance.sample(range(MOST), chance.randint(1, MOST))))
        assert [connection.ask().backend for connection in connections] == first
    answered, failed = (sum(getattr(tally, what) for tally in load.tallies) for what in ("answered", "failed"))
    record_property("connections", answered)
    print(f"{times} scalings, {answered} new connections, {failed} failed; {LONG_LIVED} long-lived, 0 reset")
    assert failed == 0
    assert answered > times
    assert len(set(first)) > 10
