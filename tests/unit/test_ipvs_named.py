# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of the ipvs dataplane for some services of many reads nothing of the others; the result is that of a run that looks at all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable
from unittest.mock import patch

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs import named, observe
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import NodeRun
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import HeldService, ServiceKey
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipvs_node import Host, service, services


@contextmanager
def looking_at_all() -> Iterator[None]:
    with patch.object(observe, "observe_named", lambda *dummy: None):
        yield


def both(
    held: list[dict[str, Any]], asked: list[dict[str, Any]], meanwhile: Callable[[Host], None] = lambda dummy: None
) -> tuple[Host, NodeRun, int]:
    """A node, what a run for these services did there, and how often it read all; another that looks at all does the same."""
    node, twin = Host(), Host()
    for one in (node, twin):
        one.run(held)
        meanwhile(one)
    with looking_at_all():
        expected = twin.run(asked, exclusive=False)
    before = node.ipvs.reads
    found = node.run(asked, exclusive=False)
    reads = node.ipvs.reads - before
    assert (found.diff, found.summary, found.changed) == (expected.diff, expected.summary, expected.changed)
    assert node.snapshot() == twin.snapshot()
    return node, found, reads


def out(number: int, **keys: Any) -> dict[str, Any]:
    """A service of which a check has found the backend that others have, too."""
    made = service(number, **keys)
    unused = {"ready": False, "serving": False} if made.get("protocol") == "udp" else {"weight": 0}
    made["backends"] = [{**one, **unused} if one["address"] == "10.0.2.9" else one for one in made["backends"]]
    return made


CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "weight": {"backends": [{"address": "10.0.1.2", "weight": 3}, *service(2)["backends"][1:]]},
    "a backend that others have goes": {"backends": [{"address": "10.0.1.2"}, {"address": "fd00::2"}]},
    "a backend of its own goes": {"backends": service(2)["backends"][1:]},
    "a backend that another has comes": {"backends": [*service(2)["backends"], {"address": "10.0.1.3"}]},
    "a backend comes": {"backends": [*service(2)["backends"], {"address": "10.0.9.9"}]},
    "a backend of the node itself": {"backends": [{"address": "192.0.2.1", "port": 8080}]},
    "no backends": {"backends": []},
    "unready": {"backends": [{**one, "ready": False} for one in service(2)["backends"]]},
    "scheduler": {"scheduler": "rr"},
    "affinity": {"session_affinity": "client_ip"},
    "no cluster-wide backends for others": {"internal_traffic_policy": "local"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_services_that_stay_where_they_are_are_changed_without_reading_others(change: dict[str, Any]) -> None:
    node, run, reads = both(services(), [service(2, **change)])
    assert (reads, run.changed) == (0, bool(change))
    assert both(services(), [service(2, **change), out(3)])[2] == 0
    node.run(services())
    twin = Host()
    twin.run(services())
    assert node.snapshot() == twin.snapshot()


OTHERWISE: dict[str, dict[str, Any]] = {
    "another address": {"vip": "10.96.1.2"},
    "another kind of address": {"vip": [], "external_ips": ["10.96.0.2", "fd96::2"]},
    "a node port": {"node_port": 30080},
    "another method": {"forward_method": "direct", "backends": [{"address": "10.0.1.2", "port": 80}]},
    "another name": {"name": "new", "vip": "10.96.1.2"},
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_what_concerns_more_than_virtual_services_reads_all(change: dict[str, Any]) -> None:
    assert both(services(), [service(2, **change)])[2] > 0


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_backend_of_many_goes_and_comes_back(protocol: str) -> None:
    """Of UDP its entry goes with the last service that has it, whoever asked for it."""
    asked = [service(number, protocol=protocol) for number in range(1, 6)]
    loop_back = f"10.0.2.9,{protocol}:90,10.0.2.9"
    node = Host()
    node.run(asked)
    good, reads = node.snapshot(), node.ipvs.reads
    for group in ([1], [2, 3], [4, 5]):
        assert loop_back in node.sets.sets["L4-LOOP-BACK"].entries
        node.run([out(number, protocol=protocol) for number in group], exclusive=False)
    assert (loop_back in node.sets.sets["L4-LOOP-BACK"].entries) == (protocol == "tcp")
    for group in ([5, 4], [3], [1, 2]):
        node.run([asked[number - 1] for number in group], exclusive=False)
        assert loop_back in node.sets.sets["L4-LOOP-BACK"].entries
    assert (node.snapshot(), node.ipvs.reads) == (good, reads)
    assert not node.run(asked).changed


def test_of_very_many_that_share_a_backend_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [service(number, protocol="udp") for number in range(1, 60)]
    assert both(asked, [out(7, protocol="udp")])[2] == 0

    def foreign(node: Host) -> None:
        for number in range(1, 60):
            key = ServiceKey("ipv4", "udp", f"10.1.1.{number}", 80, 0)
            of_others = next(one for one in node.ipvs.held.values() if one.service.key.family == "ipv4")
            held = HeldService(of_others.service._replace(key=key), dict(of_others.destinations))
            node.ipvs.held = {key: held, **node.ipvs.held}

    assert both(asked[:1], [out(1, protocol="udp")], foreign)[2] > 0
    monkeypatch.setattr(named, "_MOST_USERS", 1000)
    assert both(asked[:1], [out(1, protocol="udp")], foreign)[2] == 0
    monkeypatch.setattr(named, "_MOST_DESTINATIONS", 0)
    assert both(asked, [out(7, protocol="udp")])[2] > 0


def _of_the_same(node: Host) -> None:
    for key, held in node.ipvs.held.items():
        if key.address.endswith((".2", "::2")):
            held.destinations.update({at: one._replace(weight=7) for at, one in held.destinations.items()})
            held.destinations.popitem()


def _the_same_goes(node: Host) -> None:
    del node.ipvs.held[next(key for key in node.ipvs.held if key.address == "10.96.0.2")]


def _of_another(node: Host) -> None:
    held = node.ipvs.held[next(key for key in node.ipvs.held if key.address == "10.96.0.3")]
    held.destinations.clear()


def _record_of_the_same(node: Host) -> None:
    del node.sets.sets["L4-VIP"].entries["10.96.0.2,tcp:80"]


def _file(node: Host) -> None:
    node.store.text = "[]"


def _another_run(node: Host) -> None:
    node.run([service(2, session_affinity="client_ip", backends=[]), service(9)], exclusive=False)


BESIDE = [_of_the_same, _the_same_goes, _of_another, _file, _another_run]


@pytest.mark.parametrize("asked", [out(2), service(2)], ids=["out", "back"])
@pytest.mark.parametrize("meanwhile", BESIDE)
def test_what_has_become_of_the_same_meanwhile_is_seen(
    meanwhile: Callable[[Host], None], asked: dict[str, Any]
) -> None:
    node, twin, fresh = Host(), Host(), Host()
    for one in (node, twin):
        one.run(services())
        meanwhile(one)
    with looking_at_all():
        expected = twin.run([asked], exclusive=False)
    reads = node.ipvs.reads
    found = node.run([asked], exclusive=False)
    assert (node.ipvs.reads, found.summary, node.ipvs.held) == (reads, expected.summary, twin.ipvs.held)
    for one in (node, fresh):
        one.run(services())
    assert node.snapshot() == fresh.snapshot()


def test_a_record_that_is_lost_is_read_with_all() -> None:
    assert both(services(), [out(2)], _record_of_the_same)[2] > 0


def test_rules_addresses_and_settings_are_left_to_a_run_of_all() -> None:
    node = Host()
    node.run(services())
    node.tables.tables["filter"]["L4-NEW"].pop()
    node.device.remove(["10.96.0.3"])
    assert node.run([out(2)], exclusive=False).summary.updated == ["s2"]
    twin = Host()
    twin.run(services())
    assert node.run(services()).changed
    assert node.snapshot() == twin.snapshot()


CONFLICTS = {
    "vip": ([{"address": "10.96.0.4"}], r'backends has 10\.96\.0\.4:80, which is vip of service "s4"'),
    "ipv6": ([{"address": "fd96::4"}], r'backends has \[fd96::4\]:80, which is vip of service "s4"'),
    "node port": ([{"address": "192.0.2.1", "port": 30080}], r'which is node_port of service "s5"'),
    "elsewhere": ([{"address": "192.0.2.1", "port": 30090}], r'which is node_port of service "s6"'),
}


@pytest.mark.parametrize(("backends", "text"), CONFLICTS.values(), ids=CONFLICTS)
def test_a_backend_at_which_another_service_answers_is_refused(backends: list[dict[str, Any]], text: str) -> None:
    node = Host()
    of_ipv6 = service(6, vip="fd96::6", node_port=30090)
    node.run([*services(), service(5, node_port=30080), of_ipv6])
    before, reads = node.snapshot(), node.ipvs.reads
    with pytest.raises(InvalidServices, match=text):
        node.run([service(2, backends=backends)], exclusive=False)
    assert (node.snapshot(), node.ipvs.reads) == (before, reads)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_asked_for_in_whatever_order(seed: int) -> None:
    """Services that share backends, of both protocols, with other addresses, ranges and policies; now and then another program has its say."""
    chance = random.Random(seed)

    def some(number: int) -> dict[str, Any]:
        shared = [{"address": f"10.0.3.{chance.randrange(4)}"} for dummy in range(chance.randrange(4))]
        shared += [{"address": f"fd03::{chance.randrange(1, 4)}"} for dummy in range(chance.randrange(2))]
        unlike = {one["address"]: one for one in shared}.values()
        backends = [
            {
                **one,
                "weight": chance.randrange(3),
                "ready": chance.random() < 0.8,
                "node": chance.choice(["node1", "n2"]),
            }
            for one in unlike
        ]
        return service(number, backends=backends, **fixed[number], scheduler=chance.choice(["sh", "wrr", "rr"]))

    fixed: dict[int, dict[str, Any]] = {
        number: {
            "protocol": chance.choice(["tcp", "udp"]),
            "forward_method": "tunnel" if number % 3 == 2 else "masquerade",
            "external_ips": [f"198.51.100.{number}"] if chance.random() < 0.5 else [],
            "load_balancer_ips": [f"203.0.113.{number}"] if chance.random() < 0.5 else [],
            "source_ranges": ["10.7.0.0/16"] if chance.random() < 0.5 else [],
            "node_port": 30000 + number if number % 3 == 1 else None,
            "external_traffic_policy": chance.choice(["local", "cluster"]),
        }
        for number in range(1, 7)
    }
    held, node, twin = {number: some(number) for number in range(1, 7)}, Host(), Host()
    for one in (node, twin):
        one.run(list(held.values()))
    for dummy in range(12):
        chosen = chance.sample(range(1, 7), chance.randrange(1, 4))
        asked = [some(number) for number in chosen]
        held.update(zip(chosen, asked))
        if chance.random() < 0.3:
            at = chance.choice(sorted(node.ipvs.held))
            for one in (node, twin):
                for endpoint in sorted(one.ipvs.held[at].destinations)[:1]:
                    del one.ipvs.held[at].destinations[endpoint]
        found = node.run(asked, exclusive=False)
        with looking_at_all():
            expected = twin.run(asked, exclusive=False)
        assert found.summary == expected.summary
        assert node.ipvs.held == twin.ipvs.held
    final = list(held.values())
    for one in (node, twin):
        one.run(final)
    assert node.snapshot() == twin.snapshot()
