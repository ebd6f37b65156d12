# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of a node: what a run has seen of its kernel must still be so when it changes something.

Protocol, also for shell scripts: an exclusive flock(2) on /run/layer4-service-proxy/lock, both of root, modes 0700 and 0600.
The kernel releases it when the process that holds it ends, however it ends. A script takes it by::

    umask 077; mkdir -p /run/layer4-service-proxy; exec 9>> /run/layer4-service-proxy/lock; flock -w SECONDS 9 || exit

and gives ``9>&-`` to whatever it leaves running. The file is never removed, so that two holders never have different files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .files import RUN_DIRECTORY, FileError, open_lock_file
from .waiting import wait_until

NAME = "lock"


class LockTimeout(Exception):
    """Another run did not end in time; the text is one line for the user."""


@contextmanager
def exclusive_run(seconds: float, directory: Path = RUN_DIRECTORY) -> Iterator[None]:
    """Keep every other run off this node. seconds: how long to wait for one that is under way.

    Raises LockTimeout, and FileError where the lock file is not ours alone.
    """
    descriptor = open_lock_file(directory, NAME)
    try:
        if not wait_until(partial(_try_acquire, descriptor), seconds):
            raise LockTimeout(
                f"another run is under way on this host and has not ended in {seconds:g} seconds: wait for it, or end it "
                f"(fuser -v {directory / NAME} names the process)"
            )
        yield
    finally:
        os.close(descriptor)


def _try_acquire(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise FileError(f"the lock of runs cannot be taken: {error.strerror}") from error
    return True
