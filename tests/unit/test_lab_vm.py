# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual machines of the tests, as far as that needs neither root nor an emulator."""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lab.vm import store, suite
from lab.vm.accelerator import KVM, TCG
from lab.vm.checkout import archive
from lab.vm.command import Hardware
from lab.vm.image import Image, Recipe
from lab.vm.qmp import SOCKET, Qmp, QmpError
from lab.vm.snapshot import key
from lab.vm.ssh import Ssh

IMAGE = Image(Path("/images/one"))
MACHINE = Hardware(TCG)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "STORE", tmp_path)
    monkeypatch.setattr(store, "RUNNING", tmp_path / "running")
    return tmp_path


@pytest.mark.parametrize(
    "change", [{"suite": "trixie"}, {"packages": ()}, {"tools": ("pytest==1",)}, {"before": "-"}, {"after": "-"}]
)
def test_whatever_an_image_is_made_of_names_it(change: dict[str, str]) -> None:
    wanted = Recipe("bookworm")
    assert replace(wanted, **change).key() != wanted.key() == Recipe("bookworm").key()


@pytest.mark.parametrize("other", [replace(MACHINE, memory=512), replace(MACHINE, processors=2), Hardware(KVM)])
def test_a_snapshot_is_of_one_hardware(other: Hardware) -> None:
    assert key(other.command(IMAGE)) != key(MACHINE.command(IMAGE))


def test_a_snapshot_is_of_one_image_one_emulator_and_one_warm_up() -> None:
    assert (
        len({key(MACHINE.command(image), *words) for image in (IMAGE, Image(Path("/b"))) for words in ("a", "b")}) == 4
    )


def test_a_machine_goes_on_with_the_devices_it_was_saved_with() -> None:
    """Port, cable and state differ; all other words are those that it was booted with."""
    booted = MACHINE.command(IMAGE)
    restored = MACHINE.command(IMAGE, port=2222, lan=7, state=Path("/a b/state.zst"))
    added = ["-incoming", "exec:zstd -dc '/a b/state.zst'"]
    assert restored[-2:] == added
    differing = [(old, new) for old, new in zip(booted, restored[:-2]) if old != new]
    assert differing == [
        (
            "user,id=way-in,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22",
            "user,id=way-in,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22",
        ),
        ("hubport,id=lan,hubid=0", "tap,id=lan,fd=7"),
    ]


def test_nothing_of_the_users_ssh_is_used() -> None:
    command = Ssh(IMAGE, 2222).command("echo", "two words")
    assert command[-1] == "echo 'two words'"
    assert {"-F", "none", "BatchMode=yes", "UserKnownHostsFile=/images/one/known_hosts"} <= set(command)


def test_what_was_interrupted_is_not_taken_for_whole(cache: Path) -> None:
    def interrupted(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.made_once(cache / "image", interrupted)
    (cache / (store.UNFINISHED + "killed")).mkdir()
    store.made_once(cache / "image", lambda directory: (directory / "whole").touch())
    assert os.listdir(cache / "image") == ["whole"]
    assert sorted(os.listdir(cache)) == ["image", "making.lock"]


def test_what_is_there_is_not_made_again(cache: Path) -> None:
    (cache / "image").mkdir()
    assert store.made_once(cache / "image", lambda _: pytest.fail("made again")) == cache / "image"


def test_directories_of_dead_machines_go_and_those_of_living_ones_stay() -> None:
    first, living = store.occupied("living")
    _second, dead = store.occupied("dead")
    os.close(dead)
    third, another = store.occupied("another")
    assert {path.name for path in first.parent.iterdir()} == {"living", "another"} == {first.name, third.name}
    with open(first / store.LOCK) as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for lock in (living, another):
        os.close(lock)


def test_the_work_tree_is_copied_as_it_is(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-C", str(checkout)]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in ("changed", "gone"):
        (checkout / name).write_text("as committed")
    (checkout / ".gitignore").write_text("ignored\n")
    subprocess.run([*git, "add", "."], check=True)
    (checkout / "changed").write_text("as it is")
    (checkout / "gone").unlink()
    for name in ("new", "ignored"):
        (checkout / name).touch()
    with tarfile.open(fileobj=io.BytesIO(archive(checkout))) as packed:
        assert packed.getnames() == [".gitignore", "changed", "new"]
        changed = packed.extractfile("changed")
        assert changed is not None
        assert changed.read() == b"as it is"


def test_machines_take_the_longest_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "CHECKOUT", tmp_path)
    for size in (1, 9, 3):
        (tmp_path / f"test_{size}.py").write_text("#" * size)
    found = suite.longest_first(suite.test_files(["."]))
    assert [file.name for file in found] == ["test_9.py", "test_3.py", "test_1.py"]


@pytest.mark.parametrize(
    ("status", "failed", "left"),
    [(0, [], []), (suite.NO_TESTS, [], []), (1, ["a.py", "b.py"], []), (suite.NO_CONNECTION, ["a.py"], ["b.py"])],
)
def test_what_a_machine_did_not_pass_has_failed(
    monkeypatch: pytest.MonkeyPatch, status: int, failed: Sequence[str], left: Sequence[str]
) -> None:
    """One that is gone leaves the other files to others."""
    monkeypatch.setattr(suite.Worker, "_run", lambda _self, _file: status)
    monkeypatch.setattr(suite.Worker, "_fetch_report", lambda _self, file: file)
    worker, waiting = suite.Worker(cast("Any", None), "", ()), deque([Path("a.py"), Path("b.py")])
    worker.work(waiting)
    assert [file.name for file in worker.failed] == failed
    assert [file.name for file in waiting] == left


def test_a_file_whose_machine_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_self: suite.Worker, _file: Path) -> int:
        raise subprocess.TimeoutExpired("ssh", 60)

    monkeypatch.setattr(suite.Worker, "_run", hang)
    worker = suite.Worker(cast("Any", None), "", ())
    with pytest.raises(subprocess.TimeoutExpired):
        worker.work(deque([Path("a.py")]))
    assert worker.failed == [Path("a.py")]


def test_a_path_without_tests_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "CHECKOUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="no tests in missing"):
        suite.test_files(["missing"])


def test_the_closing_line_counts_over_all_machines(tmp_path: Path) -> None:
    reports = [tmp_path / "1.xml", tmp_path / "2.xml", tmp_path / "of-a-machine-that-hung.xml"]
    for report, failures in zip(reports, (0, 2)):
        text = f'<testsuites><testsuite tests="5" failures="{failures}" errors="0" skipped="1"/></testsuites>'
        report.write_text(text)
    assert suite.closing(suite.counted(reports), 12.34, 3) == "6 passed, 2 failed, 2 skipped in 12.3s, on 3 machines"


AGREED: dict[str, Any] = {"return": {}}


class FakeQemu(threading.Thread):
    """Speaks QMP to one client: greets, agrees, sends an event before each answer, then closes."""

    def __init__(self, directory: Path, *answers: dict[str, Any]) -> None:
        super().__init__()
        self.answers, self.asked = answers, list[str]()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / SOCKET))
        self.listener.listen()
        self.start()

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as stream, stream.makefile("w") as lines:
            lines.write('{"QMP": {"version": {}, "capabilities": []}}\n')
            lines.flush()
            for answer in (AGREED, *self.answers):
                asked = json.loads(stream.recv(65536))
                self.asked.append(asked["execute"])
                if "id" in asked:
                    lines.write('{"event": "RESUME", "timestamp": {}}\n')
                lines.write(json.dumps({**answer, "id": asked.get("id")}) + "\n")
                lines.flush()


def test_qmp_answers_and_refusals(tmp_path: Path) -> None:
    users = "VLAN -1 (way-in):\n  TCP[HOST_FORWARD]  12  127.0.0.1 43211  10.0.2.15  22\n"
    refusal = {"error": {"class": "GenericError", "desc": "no such state"}}
    qemu = FakeQemu(tmp_path, {"return": users}, refusal, {"return": {"status": "failed"}})
    with Qmp(tmp_path) as qmp:
        assert qmp.forwarded_port() == 43211
        with pytest.raises(QmpError, match="migrate: no such state"):
            qmp.command("migrate", uri="x")
        with pytest.raises(QmpError, match="'failed'}, not completed"):
            qmp.wait("query-migrate", "completed", 5)
    qemu.join()
    assert qemu.asked == ["qmp_capabilities", "human-monitor-command", "migrate", "query-migrate"]


def test_qmp_without_qemu(tmp_path: Path) -> None:
    with pytest.raises(OSError), Qmp(tmp_path):
        pass
