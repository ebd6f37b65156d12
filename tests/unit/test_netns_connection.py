# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection `netns` without namespaces: which command lines it starts, what it refuses, how it moves files."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shlex
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.playbook.play_context import PlayContext
from ansible.plugins.connection.local import Connection as LocalConnection

PLUGIN = Path(__file__).resolve().parents[2] / "plugins" / "connection" / "netns.py"


def load_plugin() -> Any:
    spec = importlib.util.spec_from_file_location("netns_connection", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load_plugin()


@pytest.fixture
def options() -> dict[str, str | None]:
    return {"netns": "node1", "view": None}


@pytest.fixture
def connection(options: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection of root to namespace node1, which exists."""
    made = plugin.Connection(PlayContext())
    monkeypatch.setattr(made, "get_option", options.__getitem__)
    monkeypatch.setattr(plugin, "NETNS_DIRECTORY", tmp_path / "netns")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "netns").mkdir()
    (tmp_path / "netns" / "node1").touch()
    return made


@pytest.fixture
def view(options: dict[str, str | None], tmp_path: Path) -> Path:
    directory = tmp_path / "my view"
    directory.mkdir()
    (directory / "mnt").touch()
    (directory / "uts").touch()
    options["view"] = str(directory)
    return directory


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that reach the local connection."""
    lines: list[list[str]] = []

    def exec_command(_self: Any, cmd: str, in_data: bytes | None, sudoable: bool) -> tuple[int, bytes, bytes]:
        lines.append(shlex.split(cmd))
        return 7, in_data or b"", str(sudoable).encode()

    monkeypatch.setattr(LocalConnection, "exec_command", exec_command)
    return lines


AWKWARD = """sudo -H sh -c 'echo "a  b" $HOME; exit 3' && echo 'it'"'"'s'"""


def test_a_command_runs_under_ip_netns_exec(connection: Any, started: list[list[str]]) -> None:
    assert connection.exec_command(AWKWARD, in_data=b"input", sudoable=False) == (7, b"input", b"False")
    assert started == [["ip", "netns", "exec", "node1", "/bin/sh", "-c", AWKWARD]]


def test_without_a_name_the_host_is_the_namespace(
    connection: Any, started: list[list[str]], options: dict[str, str | None]
) -> None:
    """The play context knows the host of a delegated task, variables do not."""
    options["netns"] = None
    connection._play_context.remote_addr = "node1"
    connection.exec_command("true")
    assert started[0][:4] == ["ip", "netns", "exec", "node1"]


def test_a_command_enters_the_view(connection: Any, started: list[list[str]], view: Path, tmp_path: Path) -> None:
    connection.exec_command(AWKWARD)
    entrance = ["nsenter", f"--net={tmp_path}/netns/node1", f"--mount={view}/mnt", f"--uts={view}/uts", "--"]
    home = ["env", f"HOME={pwd.getpwuid(0).pw_dir}"]
    assert started == [[*entrance, *home, "/bin/sh", "-c", AWKWARD]]


def test_an_unknown_namespace_is_named(connection: Any, options: dict[str, str | None], tmp_path: Path) -> None:
    options["netns"] = "nowhere"
    with pytest.raises(AnsibleConnectionFailure) as raised:
        connection.exec_command("true")
    expected = f"There is no network namespace 'nowhere' on the controller (no {tmp_path}/netns/nowhere)."
    assert str(raised.value) == expected


@pytest.mark.parametrize("missing", ["mnt", "uts"])
def test_an_incomplete_view_is_refused(connection: Any, view: Path, missing: str) -> None:
    (view / missing).unlink()
    with pytest.raises(AnsibleConnectionFailure, match=f"'node1' is not complete .no {view}/{missing}"):
        connection.exec_command("true")


def test_other_users_than_root_are_told(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AnsibleConnectionFailure, match="takes root"):
        connection.exec_command("true")


CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def beside(connection: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The connection with an entrance that any user can pass."""
    monkeypatch.setattr(connection, "_entrance", lambda: ["env"])
    return connection


def test_files_go_in_and_come_back(beside: Any, tmp_path: Path) -> None:
    source, inside, back = tmp_path / "source", tmp_path / "in 'side'", tmp_path / "back"
    source.write_bytes(CONTENT)
    beside.put_file(str(source), str(inside))
    beside.fetch_file(str(inside), str(back))
    assert inside.read_bytes() == back.read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_named(beside: Any, tmp_path: Path) -> None:
    with pytest.raises(AnsibleFileNotFound, match=f"{tmp_path}/absent"):
        beside.put_file(str(tmp_path / "absent"), str(tmp_path / "target"))
    with pytest.raises(AnsibleError, match=f"{tmp_path}/absent.*No such file"):
        beside.fetch_file(str(tmp_path / "absent"), str(tmp_path / "target"))


def test_a_place_that_cannot_be_written_is_named(beside: Any, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    with pytest.raises(AnsibleError, match="absent/target"):
        beside.put_file(str(tmp_path / "source"), str(tmp_path / "absent" / "target"))
