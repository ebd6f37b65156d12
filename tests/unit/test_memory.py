# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves for the next: what is asked for differently, and when nothing is certain. Kernels: integration tests."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.cache import (
    Memory,
    brief,
    brief_from_plain,
    difference,
    from_json,
    remember,
    to_json,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.cache_scope import HostRecords
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import state_file as kernel_memory
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables_lock import XtablesLock
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.state_file import (
    Edits,
    Left,
    LegacyMemory,
    NftMemory,
    Reading,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack, unpack
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import for_nft
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import BaseChain, NftRule

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"]})
RAW: list[dict[str, Any]] = [
    {"name": f"s{number}", "vip": f"10.96.0.{number}", "port": 80, "backends": [{"address": "10.0.0.1"}]}
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
def test_what_is_asked_for_differently(asked: list[Any], exclusive: bool, changed: list[str], gone: list[str]) -> None:
    found = difference(_memory(), "present", asked, exclusive)
    assert found is not None
    assert [raw["name"] for raw in found.changed] == changed
    assert sorted(found.gone) == gone
    assert found.kept.keys() == {"s1", "s2", "s3", "s4"} - {*changed, *gone}


@pytest.mark.parametrize("asked", [["s1"], [{}], [{"name": 1}], [RAW[0], RAW[0]]])
def test_what_cannot_be_told_by_name_is_left_to_the_whole(asked: list[Any]) -> None:
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


class Tables:
    """Those of iptables-legacy, as a text."""

    def __init__(self) -> None:
        self.text = "-A A -j X"

    def look(self) -> Reading:
        seen = self.text
        return Reading(seen.count("-A "), lambda: seen)


@pytest.fixture
def lock_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is left of a memory by the name of L4, at first something old: a state by its name."""
    found = {"L4": "old"}
    monkeypatch.setattr(kernel_memory, "_write", lambda name, state, dummy: found.update({name: state}))
    monkeypatch.setattr(kernel_memory, "_forget", lambda name: found.pop(name, None))
    return found


@pytest.mark.usefixtures("lock_file")
@pytest.mark.parametrize("line", ["", "-A A -j OF-SOMEBODY-WITHOUT-LOCK"])
def test_tables_that_somebody_edits_without_the_lock_are_not_remembered(line: str, kept: dict[str, str]) -> None:
    tables = Tables()
    memory = LegacyMemory("L4", tables.look, XtablesLock)
    memory.recall()
    tables.text = "-A A -j Y\n-A A -j Z\n" + line
    memory.keep(Left({}, "content"), Edits(1, 1))
    assert kept == ({} if line else {"L4": tables.text})


@pytest.mark.parametrize("has_lock", [False, True])
def test_tables_that_others_may_edit_while_a_run_does_are_not_remembered(
    has_lock: bool, kept: dict[str, str], lock_file: Path
) -> None:
    tables = Tables()
    memory = LegacyMemory("L4", tables.look, lambda: XtablesLock(0) if has_lock else None)
    with lock_file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        memory.recall()
        memory.keep(Left({}, "content"), Edits(1, 0))
    assert kept == {}


def test_the_lock_of_iptables_is_held_from_when_tables_are_read_until_they_are_edited(lock_file: Path) -> None:
    tables = Tables()
    for done in (
        lambda memory: memory.keep(Left({}, "content"), Edits(1, 0)),
        lambda memory: memory.end(),
        lambda memory: memory.forget(),
    ):
        memory = LegacyMemory("of a test", tables.look, XtablesLock)
        another_run = XtablesLock(0)
        memory.recall()
        assert not another_run.hold()
        with lock_file.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        of_tools = Path(os.environ["XTABLES_LOCKFILE"])
        assert of_tools.parent == lock_file.parent
        assert of_tools != lock_file
        of_tools.touch()
        done(memory)
        assert Path(os.environ["XTABLES_LOCKFILE"]) == lock_file
        assert not of_tools.exists()
        with lock_file.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        memory.forget()


class NftTables:
    """Those of a namespace: how often they were changed, and what is ours in them."""

    def __init__(self) -> None:
        self.generation, self.ours, self.looks = 7, "as compiled", 0

    def look(self) -> str:
        self.looks += 1
        return self.ours


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NftTables:
    tables = NftTables()
    monkeypatch.setattr(kernel_memory, "DIRECTORY", tmp_path)
    monkeypatch.setattr(kernel_memory, "generation", lambda: tables.generation)
    monkeypatch.setattr(NftMemory, "_digest_of_now", lambda dummy: tables.look())
    return tables


def _run(tables: NftTables, edits: int = 0) -> bool:
    """Whether what the last run left was good for this one, which changes rules in so many transactions."""
    memory = NftMemory("L4")
    found = memory.recall()
    if found and memory.is_disturbed:
        memory.renew({"renewed": True})
    tables.generation += edits
    if edits or not found:
        memory.keep(Left({}, "content"), Edits(edits, 0))
    return found is not None


def test_a_digest_is_made_only_once_others_have_changed_rules(nft: NftTables) -> None:
    assert [_run(nft, edits) for edits in (1, 0, 1, 0)] == [False, True, True, True]
    assert nft.looks == 0
    nft.generation += 1
    assert not _run(nft)
    assert nft.looks == 1
    assert _run(nft)
    assert nft.looks == 1


def test_others_may_change_what_is_theirs(nft: NftTables) -> None:
    _run(nft, edits=1)
    nft.generation += 1
    _run(nft)
    for edits, looks in ((0, 1), (1, 2), (0, 1)):
        nft.generation, nft.looks = nft.generation + 5, 0
        assert _run(nft, edits)
        assert nft.looks == looks
        assert _run(nft)
        assert nft.looks == looks
    nft.generation, nft.ours = nft.generation + 1, "edited"
    assert not _run(nft)


def test_a_change_of_ours_that_nobody_disturbs_makes_no_digest_but_forgets_it(nft: NftTables) -> None:
    _run(nft, edits=1)
    nft.generation += 1
    _run(nft)
    nft.looks = 0
    assert _run(nft, edits=1)
    nft.generation += 1
    assert not _run(nft)
    assert nft.looks == 1


class DisturbedMemory(NftMemory):
    """One of which somebody else has changed rules."""

    def __init__(self, left: Left) -> None:
        super().__init__("L4")
        self.left, self.renewed = left, []  # type: Left, list[dict[str, Any]]

    def brief(self) -> dict[str, Any]:
        return self.left.brief

    def recall(self, in_short: bool = False) -> Left:
        self.is_disturbed = True
        return self.left._replace(whole="") if in_short else self.left

    def renew(self, brief: dict[str, Any]) -> None:
        self.renewed.append(brief)


@pytest.mark.parametrize("only_foretell", [False, True])
def test_what_others_have_is_looked_at_again_where_they_have_changed_rules(only_foretell: bool) -> None:
    known = _memory()
    held = Observed(known.shared["ipv4"].chains, {("nat", "OUTPUT"): ["-j OLD"], ("filter", "FORWARD"): []})
    known = known._replace(shared={"ipv4": held})
    memory = DisturbedMemory(Left({"request": "same", "chains": [], **brief(known)._asdict()}, to_json(known)))
    records = HostRecords(memory, "same", only_foretell, lambda *key: [" ".join(key)])
    found = records.recall()
    assert found is not None
    assert found.shared["ipv4"].chains == held.chains
    assert found.shared["ipv4"].hooks == {
        ("nat", "OUTPUT"): ["ipv4 nat OUTPUT"],
        ("filter", "FORWARD"): ["ipv4 filter FORWARD"],
    }
    assert records.repeated() == brief(known)
    seen = [(BaseChain("ip", "filter", "FORWARD", "forward", "drop", True), [NftRule("drop", "")])]
    assert records.chains_of_others(lambda: seen) == seen
    assert [one["chains"] for one in memory.renewed] == ([] if only_foretell else [seen])


def test_what_nobody_has_renewed_for_a_month_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_memory, "DIRECTORY", tmp_path)
    for name, days in (("gone", 31), ("recent", 29)):
        left = tmp_path / (name + ".json")
        left.write_text("{}")
        os.utime(left, (0, time.time() - days * 24 * 3600))
    memory = LegacyMemory("L4", Tables().look, lambda: None)
    memory.recall()
    memory.keep(Left({}, "content"), Edits(0, 0))
    assert not (tmp_path / "gone.json").exists()
    assert (tmp_path / "recent.json").exists()
    assert memory.recall() == Left({}, "content")


def test_thousands_of_chains_are_announced_to_iptables_nft_as_all() -> None:
    names = [f"L4-SEP-{int(number):05}" for number in range(5000)]
    lines = ["*nat", ":L4-SERVICES - [0:0]", *(f":{name} - [0:0]" for name in names)]
    lines += ["-D OUTPUT -j L4-SERVICES", "-I PREROUTING 1 -j L4-SERVICES"]
    text = "\n".join([*lines, *(f"-A {name} -j RETURN" for name in names), "COMMIT", ""])
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
