# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of the ipvs dataplane does not look at, because the last run left it: the result is that of a run that looks at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipvs_node import NODE, Host, service, services


@pytest.fixture
def node() -> Host:
    made = Host()
    made.run(services())
    return made


def test_the_same_again_reads_nothing(node: Host) -> None:
    before = node.ipvs.reads
    for _again in range(3):
        again = node.run(services())
        assert (again.changed, again.diff, node.ipvs.reads) == (False, {"before": "", "after": ""}, before)
        assert again.summary == ([], [], [])


@pytest.mark.parametrize("request_for_none", [([], True), (services(), False, "absent"), ([], True, "absent")])
def test_with_the_last_service_goes_what_runs_have_left(node: Host, request_for_none: tuple[Any, ...]) -> None:
    assert node.store.load()
    node.run(*request_for_none)
    assert not node.store.load()


CHANGES: dict[str, dict[str, Any]] = {
    "weight": {"backends": [{"address": "10.0.1.2", "weight": 3}]},
    "a backend that others have goes": {"backends": [{"address": "10.0.1.2"}, {"address": "fd00::2"}]},
    "a backend that others have stays": {"backends": [{"address": "10.0.2.9", "port": 90}]},
    "a backend that another has comes": {"backends": [{"address": "10.0.1.3"}, {"address": "FD00:0::3"}]},
    "no backends": {"backends": []},
    "unready": {
        "backends": [{"address": "10.0.1.2", "ready": False}, {"address": "10.0.2.9", "port": 90, "ready": False}]
    },
    "scheduler": {"scheduler": "rr"},
    "affinity": {"session_affinity": "client_ip"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_one_service_reads_nothing_and_does_the_same(node: Host, change: dict[str, Any]) -> None:
    wanted = services()
    wanted[1] = service(2, **change)
    before, twin = node.ipvs.reads, Host()
    twin.run(services())
    twin.store.forget()
    expected, found = twin.run(wanted), node.run(wanted)
    assert node.ipvs.reads == before
    assert (found.diff, found.summary, found.changed) == (expected.diff, expected.summary, True)
    assert node.snapshot() == twin.snapshot()
    for again in (wanted, services(), services()):
        node.run(again)
    assert node.ipvs.reads == before
    twin.store.forget()
    twin.run(services())
    assert node.snapshot() == twin.snapshot()


OTHERWISE: dict[str, dict[str, Any]] = {
    "another address": {"vip": "10.96.1.2"},
    "a node port": {"node_port": 30080},
    "another method": {"forward_method": "direct", "backends": [{"address": "10.0.1.2", "port": 80}]},
    "a backend of the node itself": {"backends": [{"address": "192.0.2.1", "port": 8080}]},
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_what_concerns_more_than_virtual_services_reads_all(node: Host, change: dict[str, Any]) -> None:
    wanted, before = services(), node.ipvs.reads
    wanted[1] = service(2, **change)
    node.run(wanted)
    assert node.ipvs.reads > before
    twin = Host()
    twin.run(services())
    twin.store.forget()
    twin.run(wanted)
    assert node.snapshot() == twin.snapshot()


def weight(node: Host) -> None:
    held = node.ipvs.held[min(node.ipvs.held)].destinations
    at = min(held)
    held[at] = held[at]._replace(weight=7)


def weight_of_the_changed(node: Host) -> None:
    key = next(key for key in node.ipvs.held if key.address == "10.96.0.2")
    held = node.ipvs.held[key].destinations
    at = min(held)
    held[at] = held[at]._replace(weight=7)


def virtual_service(node: Host) -> None:
    del node.ipvs.held[min(node.ipvs.held)]


def address(node: Host) -> None:
    node.device.remove(["10.96.0.1"])


def entry(node: Host) -> None:
    node.sets.sets["L4-VIP"].entries.popitem()


def comment(node: Host) -> None:
    entries = node.sets.sets["L4-VIP"].entries
    at = max(entries)
    entries[at] = entries[at]._replace(comment="s9: vip")


def loop_back(node: Host) -> None:
    del node.sets.sets["L4-LOOP-BACK"].entries["10.0.2.9,tcp:90,10.0.2.9"]


def rule(node: Host) -> None:
    node.tables.tables["filter"]["L4-NEW"].pop()


def sysctl(node: Host) -> None:
    node.sysctls.values["net/ipv4/vs/conntrack"] = 0


DAMAGES = [weight, weight_of_the_changed, virtual_service, address, entry, comment, loop_back, rule, sysctl]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_somebody_else_has_changed_is_mended(node: Host, damage: Callable[[Host], None]) -> None:
    good = node.snapshot()
    damage(node)
    assert node.run(services()).changed
    assert node.snapshot() == good
    assert not node.run(services()).changed
    assert node.sysctls.values.get("net/ipv4/vs/conntrack", 1) == 1


def _nothing_changes(dummy: Host) -> list[dict[str, Any]]:
    return services()


def _without_record(node: Host) -> list[dict[str, Any]]:
    node.store.forget()
    return services()


def _one_service_changes(dummy: Host) -> list[dict[str, Any]]:
    return [service(1), service(2, backends=[{"address": "10.0.1.2"}, {"address": "10.0.2.8"}]), *services()[2:]]


def _all_is_looked_at_and_changes(node: Host) -> list[dict[str, Any]]:
    node.store.forget()
    return _one_service_changes(node)


RUNS = [_nothing_changes, _without_record, _one_service_changes, _all_is_looked_at_and_changes]


@pytest.mark.parametrize("at_end", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", RUNS)
def test_what_somebody_changes_while_a_run_does_is_mended_by_the_next(
    node: Host, what: Callable[[Host], list[dict[str, Any]]], damage: Callable[[Host], None], at_end: bool
) -> None:
    """Behind the last reading, before or after what the run changes itself."""
    wanted, twin = what(node), Host()
    twin.run(wanted)
    run = plan_run(Request("present", wanted, True, "ipvs"), NODE, node)
    steps = run.steps()
    for step in steps[:-1] if at_end else []:
        step.apply()
    damage(node)
    for step in steps[-1:] if at_end else steps:
        step.apply()
    node.run(wanted)
    assert node.snapshot() == twin.snapshot()
    assert node.sysctls.values.get("net/ipv4/vs/conntrack", 1) == 1
    reads = node.ipvs.reads
    assert not node.run(wanted).changed
    assert node.ipvs.reads == reads


def test_a_record_that_is_damaged_is_none(node: Host) -> None:
    chance = random.Random(7)
    text = node.store.text
    for dummy in range(60):
        at = chance.randrange(len(text))
        node.store.text = text[:at] + chr((ord(text[at]) + chance.randrange(1, 90)) % 128) + text[at + 1 :]
        wanted = services()
        wanted[1] = service(2, backends=[])
        assert node.run(wanted).changed
        node.store.text = ""
        assert node.run(services()).changed
        assert not node.run(services()).changed


def test_conflicts_with_services_that_stay_are_found(node: Host) -> None:
    wanted = services()
    wanted[1] = service(2, backends=[{"address": "10.96.0.4"}])
    with pytest.raises(InvalidServices, match=r'backends has 10\.96\.0\.4:80, which is vip of service "s4"'):
        node.run(wanted)


def test_a_service_at_a_backend_of_one_that_stays_is_refused(node: Host) -> None:
    with pytest.raises(
        InvalidServices,
        match=r'vip 10\.0\.1\.3:80/tcp would answer at 10\.0\.1\.3:80, which backends of service "s3" has',
    ):
        node.run([service(9, vip="10.0.1.3")], exclusive=False)
    with pytest.raises(InvalidServices, match=r"which backends of service \"s1\" has"):
        node.run([service(9, vip="10.0.1.1", backends=[])], exclusive=False)
    node.run([service(9, vip="10.0.1.3", port=81)], exclusive=False)


def test_warnings_and_udp_flows_are_those_of_all(node: Host) -> None:
    wanted = [service(1, protocol="udp"), service(2, vip="10.96.0.2"), *services()[2:]]
    first = node.run(wanted)
    again = node.run(wanted)
    assert again._facts.warnings == first._facts.warnings
    assert again.parts[0].observation.request.unchanged == [wanted[0]]
    wanted[1] = {**wanted[1], "backends": [{"address": "10.0.1.2"}]}
    narrowed = node.run(wanted)
    assert narrowed._facts.warnings == ()
    assert narrowed.parts[0].observation.request.unchanged == [wanted[0]]
    assert narrowed._facts.unmasqueraded_backends == Host().run(wanted)._facts.unmasqueraded_backends


def test_what_is_not_the_whole_leaves_no_record_that_is_believed(node: Host) -> None:
    changed = service(2, backends=[])
    node.run([changed], exclusive=False)
    assert node.run(services()).changed
    node.run([{"name": "s2"}], exclusive=False, state="absent")
    assert node.run(services()).summary.added == ["s2"]
    node.run([], state="absent")
    assert node.snapshot()[:3] == [{}, {}, None]
    assert node.run(services()).changed
