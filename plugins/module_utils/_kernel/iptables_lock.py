# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock that keeps tools of iptables-legacy from changing tables at the same time (iptables(8), ``--wait``).

Each tool takes it while it runs; whoever holds it around several can tell that nobody else was in between.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import partial

from .waiting import wait_until

_PATH = "/run/xtables.lock"
_VARIABLE = "XTABLES_LOCKFILE"
"""The lock of the tools that have it in their environment; since iptables 1.8.6."""


class XtablesLock:
    """seconds: how long to wait for it."""

    def __init__(self, seconds: float = 10) -> None:
        self._seconds = seconds
        self._held = -1
        self._environment = os.environ.get(_VARIABLE)
        self._path = self._environment or _PATH
        # Tools make it themselves, which a confined one may do beside its usual lock alone.
        self._of_tools = f"{self._path}.{os.getpid()}"

    def hold(self) -> bool:
        """Until `release`; False where it cannot be had. Tools that this process runs meanwhile take one of their own."""
        try:
            lock = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        if not wait_until(partial(_try_acquire, lock), self._seconds):
            os.close(lock)
            return False
        self._held = lock
        os.environ[_VARIABLE] = self._of_tools
        return True

    def release(self) -> None:
        """Also where it is not held."""
        if self._held >= 0:
            os.environ.pop(_VARIABLE, None)
            if self._environment:
                os.environ[_VARIABLE] = self._environment
            with suppress(OSError):
                os.unlink(self._of_tools)
            os.close(self._held)
            self._held = -1


def _try_acquire(lock: int) -> bool:
    """Whether it was free and is ours from now on."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
