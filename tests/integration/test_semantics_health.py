# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic semantics, line 33: health checks, with the checker on a node and backends that fail in every way at the same time.

Each kind of failure is a service of its own, with one backend on this node and one on the other, of which the second fails.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from checked import Backends, Checked, family_of, wait_for
from network import ADDRESSES, IPV4, Network, backends, vip
from repetition import repetition

from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.services import Services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import health_record
from lab.traffic import LongLivedConnection, Tally

COUNT = 30
"""Connections; one backend of two is missed by all of them once in 10^9 runs."""
GOOD, BAD = "b11", "b21"
SECONDS = {"interval": 1, "timeout": 3, "fall": 2, "rise": 2}
ANSWERS = {
    "error": ("500", "status 500"),
    "tls": ("503", "status 503"),
    "redirect": ("302", "status 302"),
    "reset": ("reset", "connection reset by peer"),
    "garbage": ("garbage", "answer is not HTTP"),
    "endless": ("endless", "answer is not HTTP"),
    "drip": ("drip", "timed out"),
    "silent": ("silent", "timed out"),
    "ipv6": ("500", "status 500"),
}
"""By kind: what the backend that fails answers to HTTP, and what is told."""
KILLED, STOPPED, DROPPING, DRAINED, ALL, NONE, UDP = "killed", "stopped", "dropping", "drained", "all", "none", "udp"
AFFINE = "error"
"""The kind whose service has session affinity."""
KINDS = [KILLED, STOPPED, DROPPING, DRAINED, ALL, NONE, UDP, *ANSWERS]
PORTS = {kind: 9000 + number for number, kind in enumerate(KINDS)}
VIPS = {kind: vip(1 + number, family_of(kind)) for number, kind in enumerate(KINDS)}


def _service(kind: str) -> dict[str, Any]:
    port = PORTS[kind]
    check: dict[str, Any] = {"type": "http", "status": [200], "port": port + 1000, **SECONDS}
    if kind == "tls":
        check["type"] = "https"
    if kind in (KILLED, DROPPING):
        check = SECONDS
    if kind == NONE:
        check["panic_threshold"] = None
    good, bad = backends(GOOD, BAD, family=family_of(kind), port=8080 if kind == UDP else port)
    more = {"protocol": "udp"} if kind == UDP else {"session_affinity": "client_ip"} if kind == AFFINE else {}
    bad["weight"] = 0 if kind == DRAINED else 1
    return {"name": kind, "vip": VIPS[kind], "port": 80, "backends": [good, bad], "health_check": check, **more}


SERVICES = [_service(kind) for kind in KINDS]


class _World:
    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.backends = Backends(network, directory, PORTS)
        self.checked = Checked(network, directory / "kept")

    def used(self, kind: str) -> set[str]:
        """The backends that answer; none where connections are refused. All are answered, or none."""
        protocol = "udp" if kind == UDP else "tcp"
        tally = self.network.ask("client", VIPS[kind], 80, protocol, count=COUNT)
        assert tally.answered in (0, COUNT), (kind, tally)
        return set(tally.backends)

    def fail(self) -> None:
        for kind, (mode, _told) in ANSWERS.items():
            self.backends.answer(BAD, kind, mode)
        for kind in (DRAINED, UDP):
            self.backends.answer(BAD, kind, "500")
        for kind in (ALL, NONE):
            self.backends.answer(GOOD, kind, "500")
            self.backends.answer(BAD, kind, "500")
        self.backends.signal(BAD, KILLED, signal.SIGKILL)
        self.backends.signal(BAD, STOPPED, signal.SIGSTOP)
        self.network.hosts[BAD].run(
            "iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(PORTS[DROPPING]), "-j", "DROP"
        )

    def mend(self) -> None:
        for kind in (*ANSWERS, DRAINED, UDP, ALL, NONE):
            self.backends.answer(BAD, kind, "200")
            self.backends.answer(GOOD, kind, "200")
        self.backends.start(BAD, KILLED)
        self.backends.signal(BAD, STOPPED, signal.SIGCONT)
        self.network.hosts[BAD].run("iptables", "-F", "INPUT")


@pytest.fixture(scope="module")
def world(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_World]:
    made = _World(network, tmp_path_factory.mktemp("health"))
    rest = [kind for kind in KINDS if kind not in (KILLED, STOPPED)]
    try:
        made.backends.start(GOOD, *KINDS)
        for kinds in ([KILLED], [STOPPED], rest):
            made.backends.start(BAD, *kinds)
        made.checked.give(SERVICES)
        network.applied(SERVICES)
        made.checked.start()
        yield made
    finally:
        made.checked.stop(signal.SIGKILL)
        network.hosts["node1"].call(health_record.forget_failed)
        made.backends.close()


FAILED = len(KINDS) + 2
"""All of one backend, and those of ALL and NONE of both."""
OUT = {kind for kind in KINDS if kind not in (DRAINED, ALL)}


def _assert_used(world: _World, kinds: Collection[str], expected: set[str]) -> None:
    assert {kind: world.used(kind) for kind in kinds} == dict.fromkeys(kinds, expected)


@pytest.mark.semantics(33)
def test_backends_that_fail_in_any_way_leave_and_come_back(network: Network, world: _World) -> None:
    checked = world.checked
    _assert_used(world, (KILLED, STOPPED, "drip", UDP), {GOOD, BAD})
    client = network.hosts["client"]
    established = [LongLivedConnection(client, VIPS[kind], 80, timeout=10) for kind in ["drip", "silent"] * 8]
    flows = [LongLivedConnection(client, VIPS[UDP], 80, "udp", timeout=10) for _number in range(8)]
    assert {one.first.backend for one in established} == {one.first.backend for one in flows} == {GOOD, BAD}
    try:
        world.fail()
        wait_for(lambda: len(checked.failed()) == FAILED)
        wait_for(lambda: world.used(NONE) == set())
        wait_for(lambda: checked.told("out of") >= OUT)

        _assert_used(world, OUT - {NONE}, {GOOD})
        assert world.used(ALL) == {GOOD, BAD}, "all have failed, so all are used"
        assert world.used(DRAINED) == {GOOD}
        assert [one.ask().backend for one in established] == [one.first.backend for one in established]
        assert {one.ask().backend for one in flows} == {GOOD}

        told = "\n".join(checked.failed())
        for kind, (_mode, reason) in ANSWERS.items():
            assert f":{PORTS[kind] + 1000}/: {reason}" in told, kind
        assert f":{PORTS[KILLED]}: connection refused" in told
        assert f":{PORTS[DROPPING]}: timed out" in told
        assert f":{PORTS[STOPPED] + 1000}/: timed out" in told

        again = network.applied(SERVICES)
        assert (again["changed"], len(again["unhealthy"])) == (False, len(OUT) + 1)
        anew = network.apply([{**one, "session_affinity": "client_ip"} for one in SERVICES], check=True)
        assert anew["changed"]
        assert checked.descriptors < 40

        world.mend()
        wait_for(lambda: checked.failed() == [])
        wait_for(lambda: checked.told("back in") >= OUT)
        _assert_used(world, OUT - {AFFINE}, {GOOD, BAD})
        assert world.used(DRAINED) == {GOOD}
        assert [one.ask().backend for one in established] == [one.first.backend for one in established]
        assert not network.applied(SERVICES)["changed"]
    finally:
        for one in (*established, *flows):
            one.close()


@pytest.mark.semantics(33)
def test_a_checker_that_dies_leaves_what_it_found_and_the_next_goes_on_from_it(network: Network, world: _World) -> None:
    checked = world.checked
    world.backends.answer(BAD, "reset", "500")
    wait_for(lambda: world.used("reset") == {GOOD})
    wait_for(lambda: "reset" in checked.told("out of"))
    checked.stop(signal.SIGKILL)
    assert not network.applied(SERVICES)["changed"]
    assert world.used("reset") == {GOOD}, checked.lines

    other = {**_service("drip"), "name": "other", "vip": vip(99, IPV4)}
    network.applied([*SERVICES, other])
    checked.give([*SERVICES, other])
    checked.lines.clear()
    checked.start()
    wait_for(lambda: any("1 failed" in line for line in checked.lines))
    world.backends.answer(BAD, "drip", "500")
    wait_for(lambda: checked.told("out of") == {"drip", "other"})
    assert checked.told("back in") == set()
    assert world.used("reset") == world.used("drip") == {GOOD}

    checked.lines.clear()
    checked.give(SERVICES)
    network.applied(SERVICES)
    wait_for(lambda: any("2 failed" in line for line in checked.lines))
    world.backends.answer(BAD, "drip", "200")
    wait_for(lambda: checked.told("back in") == {"drip"})
    assert world.used("reset") == {GOOD}, checked.lines

    network.hosts["node1"].call(health_record.forget_failed)
    network.applied(SERVICES)
    wait_for(lambda: world.used("reset") == {GOOD})
    wait_for(lambda: not network.apply(SERVICES, check=True)["changed"])
    assert checked.stop() == 0


@pytest.mark.semantics(33)
def test_what_was_found_is_damaged(network: Network, world: _World) -> None:
    path = network.hosts["node1"].call(health_record.path)
    found = path.read_bytes()
    try:
        path.write_bytes(found[:-9])
        failed = network.apply(SERVICES)
        assert "what health checks have found, is damaged" in failed["msg"]
        assert world.used("reset") == {GOOD}
        path.unlink()
        assert network.applied(SERVICES)["updated"] == ["reset"]
        assert world.used("reset") == {GOOD, BAD}
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.semantics(33)
@pytest.mark.parametrize("flips", [8, repetition(200)])
def test_a_backend_that_flaps_shakes_nothing_and_runs_in_between_undo_nothing(
    network: Network, world: _World, flips: int
) -> None:
    """The checker is not there: what it does with a flip is done by its own code, as fast as it goes."""
    node, own = network.hosts["node1"], Services(world.checked.directory)
    node.call(own.load)
    (probe,) = (one for one in own.probes if one.port == PORTS["reset"] + 1000 and one.address == ADDRESSES[BAD][IPV4])
    tallies: list[Tally] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            tallies.extend(network.ask("client", VIPS[kind], 80, count=10) for kind in ("reset", "redirect"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for flip in range(flips):
            failed = {} if flip % 2 else {probe: "refused"}
            node.call(health_record.write_failed, failed)
            wait_for(lambda: node.call(own.converge, ["reset"], failed))  # noqa: B023
            if flip // 2 % 2:
                assert not network.applied(SERVICES)["changed"]
    finally:
        done.set()
        asking.join()
        node.call(health_record.forget_failed)
    assert {tally.failed for tally in tallies} == {0}
    assert world.used("reset") == {GOOD, BAD}


@pytest.mark.semantics(33)
def test_where_too_few_are_healthy_all_are_used(network: Network, world: _World, family: str) -> None:
    """Of three backends one may fail at a threshold of 50 percent, and not two; at 20 percent two may."""
    node, own = network.hosts["node1"], Services(world.checked.directory)
    names = ("b11", "b12", "b21")
    services = [
        {
            "name": f"at-{threshold}",
            "vip": vip(threshold, family),
            "port": 80,
            "backends": backends(*names, family=family),
            "health_check": {"panic_threshold": threshold},
        }
        for threshold in (20, 50)
    ]
    world.checked.give(services)
    node.call(own.load)
    probes = sorted(own.probes, key=lambda probe: probe.address)
    assert [probe.address for probe in probes] == sorted(ADDRESSES[name][family] for name in names)
    try:
        for count, used in ((0, (3, 3)), (1, (2, 2)), (2, (1, 3)), (3, (3, 3)), (1, (2, 2))):
            node.call(health_record.write_failed, dict.fromkeys(probes[:count], "refused"))
            network.applied(services)
            tallies = [network.ask("client", vip(threshold, family), 80, count=60) for threshold in (20, 50)]
            assert [tally.failed for tally in tallies] == [0, 0]
            assert tuple(len(tally.backends) for tally in tallies) == used, count
    finally:
        node.call(health_record.forget_failed)
