# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves for the next: what is asked for differently, and when nothing is certain. Kernels: integration tests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils.dataplane.iptables import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils.dataplane.rules import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils.kernel import memory as kernel_memory
from ansible_collections.layer4.service_proxy.plugins.module_utils.kernel.memory import Edits, Left, LegacyMemory
from ansible_collections.layer4.service_proxy.plugins.module_utils.kernel.xtables_text import for_nft
from ansible_collections.layer4.service_proxy.plugins.module_utils.payload import pack, unpack
from ansible_collections.layer4.service_proxy.plugins.module_utils.plan.memory import (
    Memory,
    brief,
    brief_from_plain,
    difference,
    from_json,
    remember,
    to_json,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils.ruleset import Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils.service import parse_node, parse_services

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"]})
RAW: List[Dict[str, Any]] = [
    {"name": "s%d" % number, "vip": "10.96.0.%d" % number, "port": 80, "backends": [{"address": "10.0.0.1"}]}
    for number in range(1, 5)
]


def _memory() -> Memory:
    compiled = compile_services(parse_services(RAW, "iptables", NODE), NODE)
    held = {family: Observed(dict(one.chains)) for family, one in compiled.items()}
    return remember("settings", RAW, held, Layout("L4"), {}, [])


def test_what_is_remembered_survives_json() -> None:
    assert from_json(to_json(_memory())) == _memory()
    assert brief_from_plain(json.loads(json.dumps(brief(_memory())._asdict()))) == brief(_memory())


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[1,2,3,4]", to_json(_memory()).replace("ipv4", "x", 1)[:-9]])
def test_what_was_never_made_is_nothing(text: str) -> None:
    assert from_json(text) is None


def test_whether_there_is_udp_is_remembered() -> None:
    assert not brief(_memory()).has_udp
    udp = [{**raw, "protocol": "udp"} for raw in RAW]
    compiled = compile_services(parse_services(udp, "iptables", NODE), NODE)
    held = {family: Observed(dict(one.chains)) for family, one in compiled.items()}
    assert brief(remember("settings", udp, held, Layout("L4"), {}, [])).has_udp


@pytest.mark.parametrize(
    ("asked", "exclusive", "changed", "gone"),
    [
        (RAW, True, [], []),
        (RAW[1:], True, [], ["s1"]),
        (RAW[1:], False, [], []),
        ([{**RAW[0], "port": 81}, *RAW[1:]], True, ["s1"], []),
        ([*RAW, {**RAW[0], "name": "s9"}], True, ["s9"], []),
    ],
)
def test_what_is_asked_for_differently(asked: List[Any], exclusive: bool, changed: List[str], gone: List[str]) -> None:
    found = difference(_memory(), "present", asked, exclusive)
    assert found is not None
    assert [raw["name"] for raw in found.changed] == changed
    assert sorted(found.gone) == gone
    assert found.kept.keys() == {"s1", "s2", "s3", "s4"} - {*changed, *gone}


@pytest.mark.parametrize("asked", [["s1"], [{}], [{"name": 1}], [RAW[0], RAW[0]]])
def test_what_cannot_be_told_by_name_is_left_to_the_whole(asked: List[Any]) -> None:
    assert difference(_memory(), "present", asked, True) is None


def test_services_that_go_by_name() -> None:
    found = difference(_memory(), "absent", [{"name": "s1"}, {"name": "unknown"}], False)
    assert found is not None
    assert (found.changed, found.gone) == ([], {"s1"})


def test_a_payload_comes_back_and_is_known_by_its_content() -> None:
    assert unpack(pack(RAW).body) == RAW
    assert pack(RAW).digest == pack([dict(reversed(list(raw.items()))) for raw in RAW]).digest
    assert pack(RAW).digest != pack(RAW[1:]).digest
    for wrong in ("", "!", pack(RAW).body[:-8]):
        with pytest.raises(ValueError):
            unpack(wrong)


def test_tables_that_somebody_else_edits_at_the_same_time_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Dict[str, str] = {}
    monkeypatch.setattr(kernel_memory, "_write", lambda name, state, dummy: kept.update({name: state}))
    monkeypatch.setattr(kernel_memory, "_forget", kept.pop)
    before = {"ipv4 nat": "-A A -j X\n-A A -j Y\n"}
    edits = Edits(1, ["ipv4 nat -A A -j X"], ["ipv4 nat -A A -j Z"])
    for after, remembered in (
        ("-A A -j Z\n-A A -j Y\n", True),
        ("-A A -j Z\n", False),
        ("-A A -j Z\n-A A -j Y\n-A B -j Y\n", False),
        ("-A A -j Y\n", False),
    ):
        kept["L4"] = "old"
        held = dict(before)
        memory = LegacyMemory("L4", lambda held=held: held["ipv4 nat"], lambda held=held: dict(held))  # type: ignore[misc]
        memory.watch()
        memory.recall()
        held["ipv4 nat"] = after
        memory.keep(Left({}, "content"), edits)
        assert ("L4" in kept) is remembered, after


def test_what_nobody_has_renewed_for_a_month_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_memory, "DIRECTORY", tmp_path)
    for name, days in (("gone", 31), ("recent", 29)):
        left = tmp_path / (name + ".json")
        left.write_text("{}")
        os.utime(left, (0, time.time() - days * 24 * 3600))
    texts = {"ipv4 nat": "-A A -j X\n"}
    memory = LegacyMemory("L4", lambda: texts["ipv4 nat"], lambda: texts)
    memory.recall()
    memory.keep(Left({}, "content"), Edits(0, [], []))
    assert not (tmp_path / "gone.json").exists()
    assert (tmp_path / "recent.json").exists()
    assert memory.recall() == Left({}, "content")


def test_thousands_of_chains_are_announced_to_iptables_nft_as_all() -> None:
    names = ["L4-SEP-%05d" % number for number in range(5000)]
    lines = ["*nat", ":L4-SERVICES - [0:0]", *(":%s - [0:0]" % name for name in names)]
    lines += ["-D OUTPUT -j L4-SERVICES", "-I PREROUTING 1 -j L4-SERVICES"]
    text = "\n".join([*lines, *("-A %s -j RETURN" % name for name in names), "COMMIT", ""])
    arranged = for_nft(text).splitlines()
    assert arranged[:5] == [
        "*nat",
        ":L4-SERVICES - [0:0]",
        "-D OUTPUT -j L4-SERVICES",
        "-I PREROUTING 1 -j L4-SERVICES",
        "-S",
    ]
    assert sorted(line for line in arranged if line != "-S") == sorted(text.splitlines())
    few = text.replace(":", "#", 4000)
    assert for_nft(few) == few
    without_commands = "\n".join([*(line for line in lines if line[0] != "-"), "COMMIT", ""])
    assert for_nft(few + without_commands) == few + without_commands
