# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where machines and what they are made of are kept, and how that survives a process that is killed.

Everything is below ``.cache/vm``. What takes long to make is made beside its place and then renamed, so that whatever
has its final name is whole. A machine's directory is locked as long as the machine or its maker lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

CHECKOUT = Path(__file__).resolve().parents[2]
STORE = CHECKOUT / ".cache" / "vm"
RUNNING = STORE / "running"
LOGS = CHECKOUT / ".cache" / "logs"
LOCK = "lock"
UNFINISHED = "unfinished-"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; one process at a time is in the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def made_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """Return `directory`; where it is missing, `make` fills another one that then gets its name.

    One process at a time makes something; the others wait for it.
    """
    if not directory.exists():
        with locked(directory.parent / "making.lock"):
            if not directory.exists():
                _make(directory, make)
    return directory


def _make(directory: Path, make: Callable[[Path], None]) -> None:
    for left in directory.parent.glob(UNFINISHED + "*"):
        shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=directory.parent))
    try:
        make(fresh)
        fresh.rename(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def occupied(name: str) -> tuple[Path, int]:
    """A new directory for a machine, and the descriptor of its lock, which the machine's process is to inherit."""
    with locked(STORE / "running.lock"):
        sweep()
        directory = RUNNING / name
        directory.mkdir(parents=True)
        lock = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return directory, lock


def sweep() -> None:
    """Remove the directories of machines that are no more, and whose makers are no more."""
    for directory in RUNNING.glob("*"):
        try:
            with open(directory / LOCK) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)
        except FileNotFoundError:
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            continue
