# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves for the next: what is asked for differently, and when nothing is certain. Kernels: integration tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import records
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables import cache_file
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.cache import (
    CachedState,
    CacheHeader,
    all_facts,
    cached_state,
    decode,
    decode_header,
    difference,
    encode,
    has_udp,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.cache_file import Edits, Store
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.facilities import rules_state
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import rules_state as kernel
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.rules_state import RulesState
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import (
    PackedServices,
    digest_of,
    pack,
    packed,
    to_text,
    unpack,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_facts import facts_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import for_nft
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import BaseChain, NftRule
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeNode

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"]})
RAW: list[dict[str, Any]] = [
    {"name": f"s{number}", "vip": f"10.96.0.{number}", "port": 80, "backends": [{"address": "10.0.0.1"}]}
    for number in range(1, 5)
]


def _cached(raws: Sequence[Any] = RAW) -> CachedState:
    services = parse_services(raws, NODE)
    compiled = compile_services(services, NODE)
    held = {family: Observed(dict(one.chains), {("nat", "OUTPUT"): ["-j X"]}) for family, one in compiled.items()}
    facts = {service.name: facts_of([service], NODE) for service in services}
    return cached_state(raws, facts, held, Layout("L4"), {})


def _header() -> CacheHeader:
    foreign = [(BaseChain("ip", "filter", "FORWARD", "forward", "drop", True), [NftRule("drop", "")])]
    facts = facts_of(parse_services(RAW, NODE), NODE)
    return CacheHeader("7", "", "settings", "request", False, facts, {"ipv4": {("nat", "OUTPUT"): ["-j X"]}}, foreign)


def test_what_is_kept_comes_back() -> None:
    text = encode(_header(), _cached())
    found = decode(text)
    assert found is not None
    assert encode(_header(), found) == text
    assert found.services["s1"].raw == RAW[0]
    assert all_facts(found.services.values()) == all_facts(_cached().services.values())
    assert decode_header(text) == _header()


@pytest.mark.parametrize("text", ["", "null", "[]", "\n", " \n \n", "{}\n{}\n", "0 null\n0 null\n"])
def test_what_was_never_made_is_nothing(text: str) -> None:
    assert decode_header(text) is None
    assert decode(text) is None


def test_no_flipped_bit_is_believed() -> None:
    text = encode(_header(), _cached()).encode()
    first = text.index(b"\n")
    for at in range(0, len(text) - 1, 7):
        wrong = bytearray(text)
        wrong[at] ^= 1
        damaged = wrong.decode("latin-1")
        assert (decode_header(damaged) if at <= first else decode(damaged)) is None, at


def _with_checksum(values: Any) -> str:
    text = json.dumps(values, separators=(",", ":"))
    return f"{records.checksum(text)} {text}\n"


def _wrong_values(value: Any) -> list[Any]:
    """The same with another type in each of its places, one at a time."""
    found: list[Any] = [None, 1, "text", [], {}]
    if isinstance(value, dict):
        found += [{**value, key: wrong} for key, one in value.items() for wrong in _wrong_values(one)[:9]]
    if isinstance(value, list):
        found += [
            [*value[:at], wrong, *value[at + 1 :]] for at, one in enumerate(value) for wrong in _wrong_values(one)[:9]
        ]
    return [one for one in found if type(one) is not type(value) or one != value]


def test_what_has_a_checksum_and_another_shape_is_nothing_or_harmless() -> None:
    """A program that wrote it, of another version or not ours: what is read must be of the types that the run works with."""
    lines = encode(_header(), _cached(RAW[:1])).splitlines()
    header, rest = (json.loads(line.partition(" ")[2]) for line in lines)
    for wrong in _wrong_values(rest):
        found = decode(lines[0] + "\n" + _with_checksum(wrong))
        assert found is None or decode(encode(_header(), found)) == found
    for wrong in _wrong_values(header):
        head = decode_header(_with_checksum(wrong))
        assert head is None or decode_header(encode(head, _cached())) == head


def test_whether_there_is_udp_is_kept() -> None:
    assert not has_udp(_cached())
    assert has_udp(_cached([{**raw, "protocol": "udp"} for raw in RAW]))


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
    found = difference(_cached(), "present", asked, exclusive)
    assert found is not None
    assert [raw["name"] for raw in found.changed] == changed
    assert sorted(found.removed) == gone
    assert found.kept.keys() == {"s1", "s2", "s3", "s4"} - {*changed, *gone}


@pytest.mark.parametrize("asked", [["s1"], [{}], [{"name": 1}], [RAW[0], RAW[0]]])
def test_what_cannot_be_told_by_name_is_left_to_the_whole(asked: list[Any]) -> None:
    assert difference(_cached(), "present", asked, True) is None


def test_services_that_go_by_name() -> None:
    found = difference(_cached(), "absent", [{"name": "s1"}, {"name": "unknown"}], False)
    assert found is not None
    assert (found.changed, found.removed) == ([], {"s1"})


def test_a_payload_comes_back_and_is_known_by_its_content() -> None:
    assert unpack(pack(RAW).body) == RAW
    assert pack(RAW).digest == pack([dict(reversed(list(raw.items()))) for raw in RAW]).digest
    assert pack(RAW).digest != pack(RAW[1:]).digest
    for wrong in ("", "!", pack(RAW).body[:-8]):
        with pytest.raises(ValueError):
            unpack(wrong)
        with pytest.raises(InvalidServices, match=r"^payload: "):
            len(PackedServices(pack(RAW)._replace(body=wrong)))


def test_a_packed_list_is_unpacked_only_when_it_is_looked_at() -> None:
    services = PackedServices(pack(RAW))
    assert digest_of(services) == digest_of(RAW)
    assert services
    assert "_services" not in vars(services)
    assert [bool(PackedServices(packed(text))) for text in ("[]", "[     ]", to_text([]), '[{"name": "a"}]')] == [
        *3 * [False],
        True,
    ]
    assert (list(services), len(services), services[0], services[1:]) == (RAW, len(RAW), RAW[0], RAW[1:])


class NftTables:
    """Those of a namespace: how often they were changed, and what is ours in them."""

    is_nft, is_legacy = True, False

    def __init__(self) -> None:
        self.generation, self.ours, self.looks = 7, "as compiled", 0

    def look(self) -> str:
        self.looks += 1
        return self.ours

    def list_chain(self, *key: str) -> list[str]:
        return [" ".join(key)]


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(records, "RUN_DIRECTORY", tmp_path)
    monkeypatch.setattr(records, "namespace_name", lambda: "here")
    monkeypatch.setattr(cache_file, "chains_of_others", list)
    return tmp_path


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch, directory: Path) -> NftTables:
    tables = NftTables()
    assert directory
    monkeypatch.setattr(kernel, "generation", lambda: tables.generation)
    monkeypatch.setattr(cache_file, "digest_of_chains", lambda _prefix, _state: tables.look())
    return tables


def _store(tables: Any, raws: Sequence[Any] = RAW, check_mode: bool = False) -> Store:
    host = FakeNode(further={rules_state: RulesState({"ipv4": tables})})
    host.check_mode = check_mode
    store = Store(host, NODE, Request("present", raws, True, "iptables"))
    store._tables = {"ipv4": tables}
    return store


def _edits(transactions: int) -> Edits:
    return Edits(transactions, "", "")


def _run(tables: NftTables, edits: int = 0) -> bool:
    """Whether what the last run left was good for this one, which changes rules in so many transactions."""
    store = _store(tables)
    found = store.load()
    if found and not edits:
        store.touch()
    tables.generation += edits
    if edits or not found:
        store.save(_cached(), _edits(edits))
    return found


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


def test_a_daemon_knows_what_it_saved_itself_but_not_what_another_process_did(nft: NftTables, directory: Path) -> None:
    made, other = _cached(), _cached(RAW[:1])
    texts = {}
    for one in (other, made):
        store = _store(nft)
        store.load()
        store.save(one, _edits(0))
        (path,) = directory.iterdir()
        texts[len(one.services)] = path.read_text()
    assert _loaded(nft).rest() is made
    path.write_text(texts[len(other.services)])
    assert set((_loaded(nft).rest() or made).services) == set(other.services)


def _loaded(tables: NftTables) -> Store:
    store = _store(tables)
    assert store.load()
    return store


def test_a_change_of_ours_that_nobody_disturbs_makes_no_digest_but_forgets_it(nft: NftTables) -> None:
    _run(nft, edits=1)
    nft.generation += 1
    _run(nft)
    nft.looks = 0
    assert _run(nft, edits=1)
    nft.generation += 1
    assert not _run(nft)
    assert nft.looks == 1


def test_what_somebody_changes_while_a_run_does_is_not_kept(nft: NftTables, directory: Path) -> None:
    _run(nft, edits=1)
    store = _store(nft)
    assert store.load()
    nft.generation += 2
    store.save(_cached(), _edits(1))
    assert not list(directory.glob("*.json"))


def test_built_in_chains_are_looked_at_again_where_others_have_changed_rules(nft: NftTables) -> None:
    _run(nft, edits=1)
    nft.generation += 1
    _run(nft)
    undisturbed, disturbed = _store(nft), _store(nft)
    assert undisturbed.load()
    assert undisturbed.hooks()["ipv4"] == {("nat", "OUTPUT"): ["-j X"]}
    nft.generation += 1
    assert disturbed.load()
    assert {"ipv4": disturbed._tables["ipv4"]} == disturbed._tables
    assert disturbed.header is not None
    disturbed.header = disturbed.header._replace(hooks={"ipv4": disturbed.header.hooks["ipv4"]})
    assert disturbed.hooks()["ipv4"] == {("nat", "OUTPUT"): ["nat OUTPUT"]}


@pytest.mark.parametrize("damage", ["flipped", "shorter", "empty", "directory", "link", "of others"])
def test_what_is_damaged_is_forgotten_and_the_next_run_heals_it(damage: str, nft: NftTables, directory: Path) -> None:
    _run(nft, edits=1)
    (path,) = directory.glob("*.json")
    text = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(text[:40] + bytes([text[40] ^ 1]) + text[41:])
    elif damage in ("shorter", "empty"):
        path.write_bytes(text[:90] if damage == "shorter" else b"")
    elif damage == "of others":
        path.chmod(0o666)
    else:
        path.unlink()
        path.mkdir() if damage == "directory" else path.symlink_to("/dev/null")
    assert not _run(nft)
    assert _run(nft) or damage == "directory"


class LegacyTables:
    """Those of iptables-legacy, as a text."""

    is_nft, is_legacy = False, True

    def __init__(self) -> None:
        self.text = "*nat\n:A - [0:0]\n-A A -j X\nCOMMIT\n"

    def save(self, table: str) -> str:
        return self.text if table == "nat" else ""


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ("*nat\n:A - [5:300]\n-A A -j Y\n-A A -j Z\nCOMMIT\n", True),
        ("*nat\n:A - [0:0]\n-A A -j Y\n-A A -j Z\n-A A -j OF-SOMEBODY\nCOMMIT\n", False),
        ("*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j Y\n-A A -j Z\nCOMMIT\n", False),
        ("*nat\n:A - [0:0]\n-A A -j Y\nCOMMIT\n", False),
        ("*nat\n:A - [0:0]\n-A A -j X\n-A A -j Y\n-A A -j Z\nCOMMIT\n", False),
    ],
)
def test_legacy_tables_are_kept_only_where_nothing_but_our_edits_has_changed_them(
    after: str, kept: bool, directory: Path
) -> None:
    tables = LegacyTables()
    store = _store(tables)
    assert not store.load()
    tables.text = after
    store.save(_cached(), Edits(1, "*nat\n-A A -j X\nCOMMIT\n", "*nat\n-A A -j Y\n-A A -j Z\nCOMMIT\n"))
    assert bool(list(directory.glob("*.json"))) == kept
    assert _store(tables).load() == kept


def test_what_nobody_has_renewed_for_a_month_is_removed(nft: NftTables, directory: Path) -> None:
    for name, days in (("gone", 31), ("recent", 29)):
        left = directory / (name + ".json")
        left.write_text("{}")
        os.utime(left, (0, time.time() - days * 24 * 3600))
    _run(nft, edits=1)
    assert not (directory / "gone.json").exists()
    assert (directory / "recent.json").exists()
    assert _run(nft)


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
