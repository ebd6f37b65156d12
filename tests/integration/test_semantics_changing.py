# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, lines 19 and 20: what a change to a service leaves alone."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from network import ADDRESSES, Network, backends, external_ip, vip

from lab.traffic import LongLivedConnection, Servers, Tally


def _services(family: str, changed: list[str]) -> list[dict[str, object]]:
    kept = {"name": "kept", "vip": vip(1, family), "port": 80, "node_port": 30081}
    other = {"name": "other", "vip": vip(2, family), "port": 80, "external_ips": [external_ip(2, family)]}
    return [
        {**kept, "backends": backends("b11", "b12", family=family)},
        {**other, "backends": backends(*changed, family=family)},
    ]


def _rules_of(network: Network, service: str) -> list[str]:
    return [line for line in network.rules().splitlines() if f'"{service}: ' in line]


@pytest.mark.iptables_only
@pytest.mark.semantics(19)
def test_changing_one_service_changes_no_rule_of_another(network: Network, family: str) -> None:
    network.applied(_services(family, ["b21"]))
    before = _rules_of(network, "kept")
    assert before
    for changed in (["b21", "b22"], [], ["b22"]):
        result = network.applied(_services(family, changed))
        assert result["updated"] == ["other"]
        assert not any('"kept: ' in line for part in result["diff"].values() for line in part.splitlines())
        assert _rules_of(network, "kept") == before


@pytest.mark.semantics(19)
def test_changing_one_service_drops_no_packet_of_another(network: Network, family: str) -> None:
    network.applied(_services(family, ["b21"]))
    tallies: list[Tally] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            tallies.append(network.ask("client", vip(1, family), 80, count=200))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for turn in range(6):
            network.applied(_services(family, ["b21", "b22"] if turn % 2 else []))
    finally:
        done.set()
        thread.join()
    assert sum(tally.answered for tally in tallies) > 1000
    assert sum(tally.failed for tally in tallies) == 0
    if network.dataplane == "iptables":  # an emulated machine, where IPVS is proved, takes longer by itself
        assert max(tally.slowest for tally in tallies) < 1.0, "a SYN was dropped and sent again"


@pytest.mark.semantics(20)
def test_scaling_resets_no_connection_to_a_backend_that_stays(network: Network, family: str) -> None:
    with Servers() as servers, ExitStack() as stack:
        for name in ("b11", "b12", "b21"):
            servers.serve(network.hosts[name], name, ADDRESSES[name][family], 9000, keep_open=True)
        network.applied([_scaled(family, "b11")])
        connections = [
            stack.enter_context(LongLivedConnection(network.hosts["client"], vip(1, family), 80)) for dummy in range(20)
        ]
        for names in (("b11", "b12"), ("b11", "b12", "b21"), ("b11", "b21"), ("b11",)):
            network.applied([_scaled(family, *names)])
            assert {connection.ask().backend for connection in connections} == {"b11"}


def _scaled(family: str, *names: str) -> dict[str, object]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family, port=9000)}
