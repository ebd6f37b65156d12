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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .waiting import comes_true

_NAME = b"\0layer4-service-proxy"


class TurnError(Exception):
    """Another run did not end in time; the text is one line for the user."""


@contextmanager
def in_turn(seconds: float) -> Iterator[None]:
    """With no other run in this network namespace. seconds: how long to wait for one that is under way. Raises TurnError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sign:
        if not comes_true(partial(_is_taken, sign), seconds):
            text = "another run of vip_service is under way on this host, and has not ended in %d seconds: wait for it, or end it"
            raise TurnError(text % seconds)
        yield


def _is_taken(sign: socket.socket) -> bool:
    """Whether the name was free and is ours from now on."""
    try:
        sign.bind(_NAME)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise TurnError(f"other runs cannot be told to wait: {error.strerror}") from error
    return True
