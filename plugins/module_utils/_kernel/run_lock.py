# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of a node: what a run has seen of its kernel must still be so when it changes something.

Protocol, also for shell scripts: an exclusive flock(2) on /run/layer4-service-proxy/lock, both of root, modes 0700 and 0600.
The kernel releases it when the process that holds it ends, however it ends. A script takes it by::

    umask 077; mkdir -p /run/layer4-service-proxy; exec 9>> /run/layer4-service-proxy/lock; flock -w SECONDS 9 || exit

and gives ``9>&-`` to whatever it leaves running. Only its holder removes the file, as the last thing that it does; who has waited for a
file that is removed takes the one that is there now.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import RUN_DIRECTORY, FileError, open_lock_file
from .process import LIMIT
from .waiting import wait_until

NAME = "lock"
LONGEST_WAIT = LIMIT + 60
"""Seconds: more than a tool may take, so that a run whose tool hangs, and is killed, does not make others fail."""


class LockTimeout(Exception):
    """Another run did not end in time; the text is one line for the user."""


@contextmanager
def exclusive_run(seconds: float = LONGEST_WAIT, directory: Path = RUN_DIRECTORY) -> Iterator[None]:
    """Keep every other run off this node. seconds: how long to wait for one that is under way.

    Raises LockTimeout, and FileError where the lock file is not ours alone.
    """
    lock = _Lock(directory)
    try:
        if not wait_until(lock.try_acquire, seconds):
            raise LockTimeout(
                f"another run is under way on this host and has not ended in {seconds:g} seconds: wait for it, or end it "
                f"(fuser -v {directory / NAME} names the process)"
            )
        yield
    finally:
        lock.close()


def remove_run_directory(directory: Path = RUN_DIRECTORY) -> None:
    """Remove all that runs have left until the next boot, the lock too: the last thing that its holder does. Raises FileError."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"directory {directory} cannot be removed: {error.strerror}") from error


class _Lock:
    """The file of the lock, opened when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Tell whether the lock is ours now, and still the one that others ask for."""
        if self._descriptor is None:
            self._descriptor = open_lock_file(self._directory, NAME)
        if not _try_acquire(self._descriptor):
            return False
        if self._is_there(self._descriptor):
            return True
        self.close()
        return False

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._directory / NAME))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _try_acquire(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise FileError(f"the lock of runs cannot be taken: {error.strerror}") from error
    return True
