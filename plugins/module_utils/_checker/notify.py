# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd is told of the checker (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


def notify(*states: str) -> None:
    """Tell systemd, where it has started this process and listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        one.connect("\0" + path[1:] if path.startswith("@") else path)
        one.send("\n".join(states).encode())


def watchdog_seconds() -> float | None:
    """Return how long the checker may be silent; None where systemd does not watch it."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) else None


def watch_again_after(seconds: float) -> None:
    """Have systemd expect a sign of life within so many seconds from now on."""
    if watchdog_seconds():
        notify(f"WATCHDOG_USEC={int(seconds * 1e6)}", ALIVE)
