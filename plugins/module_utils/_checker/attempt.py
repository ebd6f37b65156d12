# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One check of one backend, over a socket that never blocks.

A backend may answer whatever it likes: of an answer no more is read than its first line needs, redirects are not followed, names are
not looked up, and certificates are not verified, since a check asks whether somebody serves there, not who.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import struct
from collections.abc import Generator
from functools import lru_cache, partial
from select import EPOLLIN, EPOLLOUT
from typing import Callable, TypeVar

from .._health.checks import Probe
from .._model import addresses as ip

_LONGEST_LINE = 1024
"""Bytes of an answer's first line."""
_FIRST_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r\n]")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""No connection is left behind in TIME_WAIT (socket(7), SO_LINGER)."""
_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY}
_OWN_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}

Value = TypeVar("Value")
Attempt = Generator[int, None, "str | None"]
"""Yields the events that it waits for (epoll(7)), and returns why the check has failed, None where it has not.

It may be resumed before they have come. Closing it ends the connection. Raises OwnFault.
"""


class OwnFault(Exception):
    """The node lacks what a check needs, which says nothing of the backend."""


def open_socket(probe: Probe) -> socket.socket:
    """Return a socket for a check. Raises OwnFault."""
    family = socket.AF_INET6 if ip.family_of(probe.address) == ip.IPV6 else socket.AF_INET
    try:
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError as error:
        raise OwnFault(str(error.strerror)) from error
    return made


def attempt(probe: Probe, connection: socket.socket) -> Attempt:
    """Make a check."""
    try:
        code = connection.connect_ex((probe.address, probe.port))
        while code in _UNDER_WAY:
            yield EPOLLOUT
            code = connection.connect_ex((probe.address, probe.port))  # tells how the first has ended
        if code in _OWN_FAULTS:
            raise OwnFault(os.strerror(code))
        if code:
            return os.strerror(code).lower()
        if probe.type == "tcp":
            return None
        if probe.type == "https":
            connection = secured = _context().wrap_socket(connection, do_handshake_on_connect=False)
            yield from _repeated(secured.do_handshake, EPOLLIN)
        return (yield from _asked(probe, connection))
    except (OSError, ValueError) as error:
        return _reason(error)
    finally:
        connection.close()


def _asked(probe: Probe, connection: socket.socket) -> Attempt:
    """Ask by HTTP, and judge the status."""
    rest = request(probe)
    while rest:
        sent = yield from _repeated(partial(connection.send, rest), EPOLLOUT)
        rest = rest[sent:]
    answer = b""
    while b"\n" not in answer and len(answer) < _LONGEST_LINE:
        more = yield from _repeated(partial(connection.recv, _LONGEST_LINE), EPOLLIN)
        if not more:
            break
        answer += more
    return judged(probe, answer)


def request(probe: Probe) -> bytes:
    """Return what is sent to a backend."""
    host = ip.endpoint(probe.address, probe.port)
    lines = (
        f"GET {probe.path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: layer4-service-proxy",
        "Accept: */*",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def judged(probe: Probe, answer: bytes) -> str | None:
    """Return why an answer's beginning is not good, None where it is."""
    found = _FIRST_LINE.match(answer)
    if not found:
        return "answer is not HTTP" if answer else "closed without an answer"
    status = int(found[1])
    return None if any(low <= status <= high for low, high in probe.status) else f"status {status}"


def _repeated(call: Callable[[], Value], event: int) -> Generator[int, None, Value]:
    """Call until it does not have to wait."""
    while True:
        try:
            return call()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            yield _wanted(error, event)


def _wanted(error: Exception, event: int) -> int:
    if isinstance(error, ssl.SSLWantReadError):
        return EPOLLIN
    return EPOLLOUT if isinstance(error, ssl.SSLWantWriteError) else event


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: Exception) -> str:
    """One short line, in words of this machine alone."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(getattr(error, 'reason', None) or 'failed').lower().replace('_', ' ')}"
    return (getattr(error, "strerror", None) or "answer cannot be understood").lower()
