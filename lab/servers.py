# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Servers that say who they are and whom they see.

An answer is one line, `NAME SOURCE_ADDRESS SOURCE_PORT`, with the client as the server sees it: after whatever
translation happened on the way.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .namespaces import Namespace

IPPROTO_SCTP = 132
LISTEN_BACKLOG = 4096
LINE_BYTES = 4096


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def kind_of(protocol: str) -> tuple[int, int]:
    """Socket type and protocol number."""
    kinds = {
        "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
        "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        "sctp": (socket.SOCK_STREAM, IPPROTO_SCTP),
    }
    return kinds[protocol]


def _describe(name: str, peer: tuple[str, int]) -> bytes:
    return f"{name} {peer[0]} {peer[1]}\n".encode()


class Servers:
    """Any number of listening sockets in any namespaces, served by one thread; a context manager."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._work: deque[Callable[[], None]] = deque()
        self._listeners: dict[str, list[socket.socket]] = {}
        self._selector.register(self._wakened, selectors.EVENT_READ, self._wake)
        self._open = True
        self._thread = threading.Thread(target=self._loop, name="servers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._submit(self._finish)
        self._thread.join()

    def serve(
        self,
        namespace: Namespace,
        name: str,
        address: str,
        port: int,
        protocol: str = "tcp",
        keep_open: bool = False,
    ) -> None:
        """Answer as `name` on this address and port (OSError when it cannot be had).

        A connection is closed after the answer, or with `keep_open` answered again for each line that it sends.
        """
        kind, number = kind_of(protocol)
        listener = namespace.socket(family_of(address), kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            if kind == socket.SOCK_STREAM:
                listener.listen(LISTEN_BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._listeners.setdefault(name, []).append(listener)
        if kind == socket.SOCK_DGRAM:
            self._submit(lambda: self._watch(listener, lambda: self._answer_datagrams(listener, name)))
        else:
            self._submit(lambda: self._watch(listener, lambda: self._accept(listener, name, keep_open)))

    def stop(self, name: str) -> None:
        """Close every listening socket of this name, so that new connections are refused; open ones go on."""
        stopped = threading.Event()
        listeners = self._listeners.pop(name)

        def close() -> None:
            for listener in listeners:
                self._forget(listener)
            stopped.set()

        self._submit(close)
        stopped.wait()

    def _submit(self, work: Callable[[], None]) -> None:
        """Have the serving thread do something: it alone touches the selector."""
        self._work.append(work)
        self._waker.send(b"x")

    def _wake(self) -> None:
        self._wakened.recv(LINE_BYTES)
        while self._work:
            self._work.popleft()()

    def _loop(self) -> None:
        while self._open:
            for key, _events in self._selector.select():
                if self._open and key.fileobj in self._selector.get_map():
                    key.data()

    def _finish(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                self._forget(key.fileobj)
        self._waker.close()
        self._selector.close()
        self._open = False

    def _watch(self, endpoint: socket.socket, ready: Callable[[], None]) -> None:
        self._selector.register(endpoint, selectors.EVENT_READ, ready)

    def _forget(self, endpoint: socket.socket) -> None:
        self._selector.unregister(endpoint)
        endpoint.close()

    def _accept(self, listener: socket.socket, name: str, keep_open: bool) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                raise
            line = _describe(name, peer)
            if keep_open:
                self._keep(connection, line)
            else:
                _send_and_close(connection, line)

    def _keep(self, connection: socket.socket, line: bytes) -> None:
        connection.setblocking(False)
        self._watch(connection, lambda: self._echo(connection, line))
        _send(connection, line)

    def _echo(self, connection: socket.socket, line: bytes) -> None:
        """One prefixed line for each line received; a connection that ended is forgotten."""
        try:
            received = connection.recv(LINE_BYTES)
        except OSError:
            received = b""
        if not received:
            self._forget(connection)
            return
        for text in received.splitlines():
            _send(connection, line[:-1] + b" " + text + b"\n")

    def _answer_datagrams(self, endpoint: socket.socket, name: str) -> None:
        """Answer what has arrived; an ICMP error that an earlier answer met says nothing about this one."""
        with suppress(BlockingIOError):
            while True:
                with suppress(ConnectionError):
                    _datagram, peer = endpoint.recvfrom(LINE_BYTES)
                    endpoint.sendto(_describe(name, peer), peer)


def _send(connection: socket.socket, line: bytes) -> None:
    """The answer, unless the client is gone, which the selector reports as the end of the connection."""
    with suppress(OSError):
        connection.send(line)


def _send_and_close(connection: socket.socket, line: bytes) -> None:
    """The answer and the end in one segment."""
    with suppress(OSError):
        connection.send(line, socket.MSG_MORE)
    connection.close()
