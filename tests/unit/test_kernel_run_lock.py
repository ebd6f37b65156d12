# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time, by a file that is ours alone; that nothing is lost by runs at the same time is in the integration tests."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import FileError
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.process import LIMIT
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import (
    LONGEST_WAIT,
    NAME,
    LockTimeout,
    exclusive_run,
    remove_run_directory,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_the_lock_is_for_one_at_a_time(directory: Path) -> None:
    with (
        exclusive_run(0, directory),
        pytest.raises(LockTimeout, match="another run is under way on this host"),
        exclusive_run(0.1, directory),
    ):
        pass
    with exclusive_run(0, directory):
        pass


def test_the_lock_is_released_by_a_run_that_fails(directory: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive_run(0, directory):
        raise ZeroDivisionError
    with exclusive_run(0, directory):
        pass


def test_who_has_waited_for_a_lock_that_is_removed_has_the_one_that_is_there(directory: Path) -> None:
    held, waiting, late = (threading.Event() for dummy in range(3))
    order: list[str] = []

    def first() -> None:
        with exclusive_run(0, directory):
            held.set()
            waiting.wait(30)
            remove_run_directory(directory)

    def second() -> None:
        held.wait(30)
        with exclusive_run(30, directory):
            order.append("second")
            with pytest.raises(LockTimeout), exclusive_run(0, directory):
                order.append("both")
            late.set()

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    held.wait(30)
    time.sleep(0.3)  # for the second to wait for the file that the first removes
    waiting.set()
    assert late.wait(30)
    for thread in threads:
        thread.join()
    assert order == ["second"]


def test_nobody_else_can_open_the_lock_whatever_the_umask(directory: Path) -> None:
    old = os.umask(0)
    try:
        with exclusive_run(0, directory):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600


def test_modes_are_repaired(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    (directory / NAME).touch()
    (directory / NAME).chmod(0o666)
    with exclusive_run(0, directory):
        pass
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("of", ["directory", "file"])
def test_links_are_refused(directory: Path, tmp_path: Path, of: str) -> None:
    target = tmp_path / "target"
    if of == "directory":
        target.mkdir(mode=0o755)
        directory.symlink_to(target)
    else:
        target.write_text("kept")
        directory.mkdir()
        (directory / NAME).symlink_to(target)
    with pytest.raises(FileError, match=str(directory)), exclusive_run(0, directory):
        pass
    assert list(target.iterdir()) == [] if of == "directory" else target.read_text() == "kept"


def test_what_is_no_file_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.mkfifo(directory / NAME)
    with pytest.raises(FileError, match="remove it"), exclusive_run(0, directory):
        pass


def test_a_shell_script_takes_the_same_lock(directory: Path) -> None:
    flock = shutil.which("flock")
    assert flock
    argv = [flock, "-n", str(directory / NAME), "true"]
    with exclusive_run(0, directory):
        assert subprocess.run(argv, check=False).returncode == 1
    assert subprocess.run(argv, check=False).returncode == 0


def test_a_run_is_waited_for_longer_than_its_tool_may_hang() -> None:
    assert LONGEST_WAIT > LIMIT
