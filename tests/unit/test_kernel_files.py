# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of ours: modes whatever the umask, links never followed, three answers when they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import (
    FileError,
    ensure_directory,
    read_file,
    remove_file,
    write_file,
)


@pytest.fixture(params=[0, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_file_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    write_file(tmp_path / "file", "text\n", mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert read_file(tmp_path / "file") == b"text\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("_umask")
def test_a_file_and_a_directory_get_their_modes_back(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    directory.chmod(0o777)
    ensure_directory(directory)
    (directory / "file").write_bytes(b"old")
    (directory / "file").chmod(0o666)
    write_file(directory / "file", b"new")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "file")] == [0o700, 0o600]


@pytest.mark.parametrize("name", ["file", "file.new"])
def test_a_link_is_replaced_and_never_followed(tmp_path: Path, name: str) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_text("kept")
    (tmp_path / name).symlink_to(target)
    write_file(path, "new")
    assert target.read_text() == "kept"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_directory_in_place_of_a_file_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    for use in (lambda: write_file(path, "new"), lambda: read_file(path), lambda: remove_file(path)):
        with pytest.raises(FileError, match=str(path)):
            use()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "directory").touch()
    with pytest.raises(FileError, match="Not a directory"):
        ensure_directory(tmp_path / "directory")


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_file(tmp_path / "file") is None
    assert not remove_file(tmp_path / "file")


def test_a_file_that_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    path.chmod(0o666)
    with pytest.raises(FileError, match="not trusted"):
        read_file(path)


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with pytest.raises(FileError, match="cannot be read"):
        read_file(tmp_path / "file")


def test_text_is_written_to_the_byte(tmp_path: Path) -> None:
    text = "\\ \u2028 \udcff \r\n"
    write_file(tmp_path / "file", text)
    assert (read_file(tmp_path / "file") or b"").decode("utf-8", "surrogateescape") == text
