# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot files, generations and the node's program, without a kernel."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import astuple
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables_messages import encode_change
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.process import Runner
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import asked, boot, boot_files, boot_nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_generations as generations
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_generations import BootError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_program import build
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import Change, merge_diffs
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Jump
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import Timeouts
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import plan_tables
from ansible_collections.layer4.service_proxy.tests.unit import nftables_samples

JUMP = Jump("nat", "PREROUTING", '-m comment --comment "L4 services" -j L4-SERVICES')
LAST = Jump("filter", "FORWARD", "-j L4-BRIDGE", "last")
STATE = BootState(
    rules={
        "ipv4": Desired(
            {("nat", "L4-SERVICES"): ["-j L4-A"], ("nat", "L4-A"): ["-j RETURN"], ("filter", "L4-BRIDGE"): []},
            [JUMP, LAST],
        )
    },
    sets="create L4-VIP hash:ip\n",
    ipvs=["-A -t 10.0.0.1:80 -s wrr", "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1"],
    ipvs_timeouts=Timeouts(900, 0, 30),
    addresses=["fd00::1", "10.0.0.1"],
    sysctls={"net/ipv4/conf/all/route_localnet": 1},
)
RULES = """\
*filter
:L4-BRIDGE - [0:0]
COMMIT
*nat
:L4-A - [0:0]
:L4-SERVICES - [0:0]
-A L4-A -j RETURN
-A L4-SERVICES -j L4-A
COMMIT
"""


def test_each_facility_has_a_file_in_its_tools_format() -> None:
    files = {name: content.decode() for name, content in boot_files.render(STATE).items()}
    assert files == {
        "ipset": "create L4-VIP hash:ip\n",
        "iptables": RULES,
        "iptables.jumps": files["iptables.jumps"],
        "ipvsadm": "-A -t 10.0.0.1:80 -s wrr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1\n",
        "ipvs-timeouts": "900 0 30\n",
        "addresses": "10.0.0.1\nfd00::1\n",
        "sysctls": "net/ipv4/conf/all/route_localnet = 1\n",
    }
    assert set(files) <= set(boot_files.FACILITIES)
    assert boot_files.parse_jumps(files["iptables.jumps"]) == [JUMP, LAST]
    before_behind = json.dumps([*astuple(JUMP)[:6]])
    assert boot_files.parse_jumps(before_behind) == [JUMP]
    assert boot_files.parse_timeouts(files["ipvs-timeouts"]) == Timeouts(900, 0, 30)
    assert boot_files.parse_sysctls(files["sysctls"]) == {"net/ipv4/conf/all/route_localnet": 1}
    assert boot_files.render(BootState()) == {}


def test_jumps_go_into_the_transaction_of_their_table() -> None:
    hooks = {("nat", "PREROUTING"): ["-j DOCKER"], ("filter", "FORWARD"): ["-j L4-BRIDGE", "-j L4-BRIDGE"]}
    edits = boot_files.jump_edits([JUMP, LAST], hooks)
    assert edits == {
        "filter": "-D FORWARD -j L4-BRIDGE\n-D FORWARD -j L4-BRIDGE\n-A FORWARD -j L4-BRIDGE\n",
        "nat": '-I PREROUTING 1 -m comment --comment "L4 services" -j L4-SERVICES\n',
    }
    assert boot_files.with_jumps(RULES, edits).splitlines() == [
        *("*filter", ":L4-BRIDGE - [0:0]", *edits["filter"].splitlines(), "COMMIT"),
        *("*nat", ":L4-A - [0:0]", ":L4-SERVICES - [0:0]", edits["nat"].rstrip("\n")),
        *("-A L4-A -j RETURN", "-A L4-SERVICES -j L4-A", "COMMIT"),
    ]
    there = {("nat", "PREROUTING"): [JUMP.rule], ("filter", "FORWARD"): [LAST.rule, "-j THEIRS"]}
    assert boot_files.jump_edits([JUMP, LAST], there) == {}
    assert boot_files.with_jumps(RULES, {}) == RULES


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_table_of_nftables_is_kept_as_the_messages_that_make_it(family: str) -> None:
    table = nftables_samples.table(family)
    content = boot_files.render(BootState(nftables={"ipv4": table}))["nft-ipv4"]
    found = boot_nftables.decode(content)
    name = nftables_samples.table_id(family)
    changes = plan_tables({name: table}, {}).changes
    assert found == [(one.kind, one.flags, one.payload) for change in changes for one in encode_change(change)]
    for end in (1, 7, 9, len(content) - 1):
        with pytest.raises(ValueError, match="in the middle of a message"):
            boot_nftables.decode(content[:end])


@pytest.mark.parametrize("text", ["[1]\n", "{}\n", '["nat"]\n', "nat\n", '["nat", 1, "r", "first", false]\n'])
def test_what_is_no_list_of_jumps_is_refused(text: str) -> None:
    with pytest.raises(boot_files.InvalidFileError):
        boot_files.parse_jumps(text)


@pytest.mark.parametrize("text", ["../../etc/x = 1", "net/../kernel/x = 1", "/etc/passwd = 1", "net/a = x", "net/a 1"])
def test_what_is_no_list_of_sysctls_is_refused(text: str) -> None:
    with pytest.raises(boot_files.InvalidFileError):
        boot_files.parse_sysctls(text)


def test_odd_texts_survive_being_kept(tmp_path: Path) -> None:
    """Whatever stands in a rule or in what was asked for comes out of the files as it went in."""
    chance = random.Random(7)
    pool = [
        '"',
        "\\",
        "'",
        "$(id)",
        "`",
        ";",
        "%",
        "\u2028",
        "\x85",
        "\x1b",
        "\udcff",
        "é",
        "\U0001f600",
        "-j",
        "#",
        "COMMIT",
        ":",
    ]
    for number in range(1000):
        odd = "".join(chance.choice(pool) for _one in range(chance.randint(1, 40)))
        quoted = odd.replace("\\", "\\\\").replace('"', '\\"')
        jump = Jump("nat", "OUTPUT", f'-m comment --comment "{quoted}" -j L4-A')
        desired = Desired({("nat", "L4-A"): [f'-m comment --comment "{quoted}" -j RETURN']}, [jump])
        files = boot_files.render(BootState(rules={"ipv4": desired}))
        assert boot_files.parse_jumps(files["iptables.jumps"].decode()) == [jump]
        assert (
            files["iptables"].decode("utf-8", "surrogateescape").split("\n")[2]
            == f'-A L4-A -m comment --comment "{quoted}" -j RETURN'
        )
        if number % 100 == 0:
            part = boot.Part(lambda desired=desired: BootState(rules={"ipv4": desired}), "", {"odd": odd})  # type: ignore[misc]
            _apply(_plan(tmp_path, services=part))
            kept = boot.observe(_paths(tmp_path))
            assert kept.asked == {"services": {"odd": odd}}
            assert kept.problems == []


def _paths(root: Path) -> boot.Paths:
    return boot.Paths(root / "kept", root / "program")


def _plan(root: Path, restore: bool = True, **parts: boot.Part | None) -> list[Change]:
    return boot.plan_boot(parts, boot.Settings(restore, reapply=False), boot.observe(_paths(root)), cast(Runner, None))


def _apply(changes: Sequence[Change]) -> None:
    for one in changes:
        if one.changed:
            one.apply()


def _changed(changes: Sequence[Change]) -> bool:
    return any(one.changed for one in changes)


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units of the machine that runs the tests are none of their business."""
    monkeypatch.setattr(boot, "plan_units", lambda *dummy: Change("units"))


def _part(state: BootState = STATE, digest: str = "1", **given: Any) -> boot.Part:
    return boot.Part(lambda: state, digest, given)


def _refuse() -> BootState:
    raise AssertionError("this is known")


def test_what_is_known_is_not_made_again(tmp_path: Path) -> None:
    _apply(_plan(tmp_path, services=_part(a=1)))
    assert not _changed(_plan(tmp_path, services=boot.Part(_refuse, "1", {"a": 1})))
    other = _plan(tmp_path, services=boot.Part(_refuse, "1", {"a": 2}))
    assert [(one.name, one.before.splitlines()[0], one.after.splitlines()[0]) for one in other if one.changed] == [
        ("boot", "generation 1", "generation 2")
    ]
    _apply(other)
    assert boot.observe(_paths(tmp_path)).asked == {"services": {"a": 2}}
    assert generations.asked_of(tmp_path / "kept", 1) == {"services": {"a": 1}}
    with pytest.raises(BootError, match=r"there is no generation 3 on this node: kept are 1, 2"):
        generations.asked_of(tmp_path / "kept", 3)


def test_nothing_is_restored_unless_it_is_asked_for_but_what_was_asked_is_kept(tmp_path: Path) -> None:
    _apply(_plan(tmp_path, restore=False, services=boot.Part(_refuse, "1", {"a": 1})))
    assert boot.observe(_paths(tmp_path)).asked == {"services": {"a": 1}}
    assert not _changed(_plan(tmp_path, restore=False, services=boot.Part(_refuse, "1", {"a": 1})))
    assert "services.iptables " in merge_diffs(_plan(tmp_path, services=_part(a=1)))["after"]


def test_a_part_that_is_broken_and_not_at_hand_is_made_by_its_next_run(tmp_path: Path) -> None:
    _apply(_plan(tmp_path, services=_part(a=1), bridge=_part(BootState(sets="create B hash:ip\n"))))
    path = tmp_path / "kept/current/services.iptables"
    path.unlink()
    _apply(_plan(tmp_path, bridge=_part(BootState(sets="create C hash:ip\n"), "2")))
    assert not path.exists()
    _apply(_plan(tmp_path, services=_part(a=1)))
    assert path.read_text() == RULES


class _Killed(BaseException):
    """The run ends here."""


class _Dying:
    """Functions that together can be called so many times."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def patched(self, original: Any) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            self._calls -= 1
            if self._calls == 0:
                raise _Killed
            return original(*words, **options)

        return call


def test_a_generation_is_whole_or_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere, a run leaves the generation before it, and the next one goes on."""
    _apply(_plan(tmp_path, services=_part(a=0)))
    for stop in range(1, 200):
        change = _plan(tmp_path, services=_part(a=stop))
        with monkeypatch.context() as patch:
            dying = _Dying(stop)
            for name in ("replace", "rename", "symlink", "fsync", "mkdir", "link", "unlink"):
                patch.setattr(os, name, dying.patched(getattr(os, name)))
            try:
                _apply(change)
            except _Killed:
                pass
            else:
                break
        kept = boot.observe(_paths(tmp_path))
        assert kept.problems == []
        assert kept.asked["services"]["a"] in (stop, stop - 1)
        change = _plan(tmp_path, services=_part(a=stop))
        _apply(change)
        assert boot.observe(_paths(tmp_path)).asked["services"]["a"] == stop
    else:
        raise AssertionError("it never came to its end")
    assert stop > 20


def test_the_program_is_the_same_each_time_and_runs_without_ansible(tmp_path: Path) -> None:
    program = build()
    assert program == build()
    path = tmp_path / "program"
    path.write_bytes(program)
    assert program.startswith(b"#!/usr/bin/python3 -IS\n") or sys.executable.encode() in program[:200]
    done = subprocess.run([sys.executable, "-IS", str(path), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "restore" not in done.stdout


def test_nothing_in_the_program_imports_ansible_when_it_runs() -> None:
    """Each module of it, but those that only modules of Ansible use."""
    with zipfile.ZipFile(BytesIO(build())) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if "/_" in name}
    reached, left = set[str](), ["layer4_service_proxy/_node/command.py", "layer4_service_proxy/_dataplane/offline.py"]
    while left:
        name = left.pop()
        if name not in texts or name in reached:
            continue
        reached.add(name)
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = name.split("/")[: -node.level]
                module = [*base, *(node.module or "").split(".")] if node.module else base
                left += ["/".join(module) + ".py", *("/".join([*module, one.name]) + ".py" for one in node.names)]
            elif isinstance(node, ast.ImportFrom) and not _is_for_types(texts[name], node):
                assert not (node.module or "").startswith("ansible"), name
    assert "layer4_service_proxy/_node/boot_restore.py" in reached


def _is_for_types(text: str, node: ast.ImportFrom) -> bool:
    line = text.splitlines()[node.lineno - 1]
    return line.startswith("    ") and "if TYPE_CHECKING:" in text


def _asked(services: list[Any], drained: Sequence[str] = (), **settings: Any) -> dict[str, Any]:
    return {"services": {"settings": settings, "services": pack(services)._asdict(), "drained": list(drained)}}


def test_a_difference_is_of_services_and_settings() -> None:
    web = {
        "name": "web",
        "vip": "10.96.0.1",
        "port": 80,
        "backends": [{"address": "10.0.0.1"}, {"address": "10.0.0.2"}],
    }
    before = _asked([web, {"name": "db", "port": 5432}], name="n")
    changed = {**web, "port": 80, "backends": [{"address": "10.0.0.1", "weight": 2}, {"address": "10.0.0.2"}]}
    after = _asked([changed], ["10.0.0.2"], name="n", masquerade_all=True)
    assert asked.difference(before, after) == [
        '~ service_proxy_drained [] -> ["10.0.0.2"]',
        "~ service_proxy_masquerade_all null -> true",
        "- db  no address  5432/tcp  -> none",
        "~ web: - 10.0.0.1:80; + 10.0.0.1:80 (weight 2)",
    ]
    assert asked.service_lines(after) == ["web  10.96.0.1  80/tcp  -> 10.0.0.1:80 (weight 2), 10.0.0.2:80 (weight 0)"]


def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    path = tmp_path / "generations" / "1" / "index.json"
    path.parent.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"format": 2, "parts": {}}', '{"format": 1, "parts": 1}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(BootError):
            generations.load(tmp_path, 1)
    path.write_text(json.dumps({"format": 1, "parts": {"../..": {"made_of": "", "files": {"x": ""}}}}))
    with pytest.raises(BootError, match="names what is no file of ours"):
        generations.load(tmp_path, 1)
