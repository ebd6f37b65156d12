# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs that take turns: what one has seen of a host must still be so when it changes something.

The sign is a name in the abstract namespace of Unix sockets (unix(7)): each network namespace has its own, it takes no file,
and the kernel takes it back from a process that ends, however it ends.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import contextmanager
from typing import Iterator

_NAME = b"\0layer4-service-proxy"
_PAUSE = 0.05


class TurnError(Exception):
    """Another run did not end in time; the text is one line for the user."""


@contextmanager
def in_turn(seconds: float) -> Iterator[None]:
    """With no other run in this network namespace. seconds: how long to wait for one that is under way. Raises TurnError."""
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sign:
        while not _is_taken(sign):
            if time.monotonic() > until:
                text = "another run of vip_service is under way on this host, and has not ended in %d seconds: wait for it, or end it"
                raise TurnError(text % seconds)
            time.sleep(_PAUSE)
        yield


def _is_taken(sign: socket.socket) -> bool:
    """Whether the name was free and is ours from now on."""
    try:
        sign.bind(_NAME)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise TurnError("other runs cannot be told to wait: %s" % error.strerror) from error
    return True
