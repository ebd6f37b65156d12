# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clients that count the answers of `Servers`, and connections that stay open."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .servers import LINE_BYTES, Servers, family_of, kind_of

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .namespaces import Namespace

__all__ = ["Answer", "LongLivedConnection", "Servers", "Tally", "connect"]

IN_FLIGHT = 64
ABORT_ON_CLOSE = struct.pack("ii", 1, 0)

FAILURES: dict[int, str] = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EPERM: "denied",
}


class Answer(NamedTuple):
    """One answer: which backend spoke, and from where it saw the client come."""

    backend: str
    address: str
    port: int


@dataclass
class Tally:
    """What a number of attempts came to.

    `failures` counts by kind: refused, timeout, unreachable (also "administratively prohibited"), reset (or closed
    without an answer), denied (a rule of the client's own host dropped the datagram as it was sent).
    """

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def backends(self) -> Counter[str]:
        """Answers by backend."""
        counts: Counter[str] = Counter()
        for (backend, _source), count in self.answers.items():
            counts[backend] += count
        return counts

    @property
    def sources(self) -> set[str]:
        """The client's addresses as backends saw them."""
        return {source for _backend, source in self.answers}

    @property
    def answered(self) -> int:
        return sum(self.answers.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def _parse(line: bytes) -> Answer:
    backend, address, port = line.decode().split()[:3]
    return Answer(backend, address, int(port))


@dataclass
class _Attempt:
    endpoint: socket.socket
    started: float
    received: bytes = b""


class _Clients:
    """`count` attempts, at most `in_flight` at a time, made in the thread that runs it."""

    def __init__(self, target: tuple[str, int], protocol: str, source: tuple[str, int], timeout: float) -> None:
        self._target = target
        self._family = family_of(target[0])
        self._kind, self._number = kind_of(protocol)
        self._source = source
        self._timeout = timeout
        self._selector = selectors.DefaultSelector()
        self._open: dict[int, _Attempt] = {}
        self.tally = Tally()

    def run(self, count: int, in_flight: int) -> Tally:
        began = time.monotonic()
        while count or self._open:
            while count and len(self._open) < in_flight:
                count -= 1
                self._start()
            self._advance()
        self._selector.close()
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _start(self) -> None:
        endpoint = socket.socket(self._family, self._kind, self._number)
        endpoint.setblocking(False)
        attempt = _Attempt(endpoint, time.monotonic())
        try:
            if self._source != ("", 0):
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                endpoint.bind(self._source)
            failure = endpoint.connect_ex(self._target)
            if failure not in (0, errno.EINPROGRESS):
                raise OSError(failure, "connect")
            if self._kind == socket.SOCK_DGRAM:
                endpoint.send(b"?\n")
        except OSError as error:
            self._fail(attempt, error)
            return
        self._open[endpoint.fileno()] = attempt
        self._selector.register(endpoint, selectors.EVENT_READ, attempt)

    def _advance(self) -> None:
        """Take what is ready, then give up on what was late before; attempts are kept in order of their start.

        An answer that is there when a busy machine lets this process go on is none that is missing.
        """
        if not self._open:
            return
        late = time.monotonic() - self._timeout
        patience = next(iter(self._open.values())).started - late
        for key, _events in self._selector.select(max(patience, 0)):
            self._read(key.data)
        for attempt in [attempt for attempt in self._open.values() if attempt.started <= late]:
            self._fail(attempt, OSError(errno.ETIMEDOUT, "no answer"))

    def _read(self, attempt: _Attempt) -> None:
        """Take the answer, and the end of the stream if it came along."""
        try:
            while True:
                received = attempt.endpoint.recv(LINE_BYTES)
                attempt.received += received
                if not received or self._kind == socket.SOCK_DGRAM:
                    break
        except BlockingIOError:
            if not attempt.received.endswith(b"\n"):
                return
        except OSError as error:
            if not attempt.received.endswith(b"\n"):
                self._fail(attempt, error)
                return
        if not attempt.received.endswith(b"\n"):
            self._fail(attempt, OSError(errno.ECONNRESET, "closed without an answer"))
            return
        answer = _parse(attempt.received)
        self.tally.answers[answer.backend, answer.address] += 1
        self._close(attempt)

    def _fail(self, attempt: _Attempt, error: OSError) -> None:
        kind = FAILURES.get(error.errno or 0)
        if kind is None:
            raise error
        self.tally.failures[kind] += 1
        self._close(attempt)

    def _close(self, attempt: _Attempt) -> None:
        """Abort rather than close a stream: a client that opens thousands keeps no port in TIME_WAIT."""
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - attempt.started)
        if self._open.pop(attempt.endpoint.fileno(), None):
            self._selector.unregister(attempt.endpoint)
        if self._kind == socket.SOCK_STREAM:
            attempt.endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
        attempt.endpoint.close()


def connect(
    namespace: Namespace,
    address: str,
    port: int,
    protocol: str = "tcp",
    count: int = 1,
    timeout: float = 2.0,
    source: str | None = None,
    source_port: int | None = None,
) -> Tally:
    """Ask address:port from inside the namespace `count` times, each in a connection (or UDP flow) of its own.

    `timeout` is in seconds for each attempt. With `source_port` the attempts share it, one after another.
    A refusal may take over a second: a client that is still in connect(2) sees it only at its second SYN.
    """
    unspecified = "::" if ":" in address else "0.0.0.0"
    origin = (source or (unspecified if source_port else ""), source_port or 0)
    clients = _Clients((address, port), protocol, origin, timeout)
    return namespace.call(clients.run, count, 1 if source_port else IN_FLIGHT)


class LongLivedConnection:
    """A connection to a server that keeps it open: made once, asked many times; a context manager.

    UDP works too: one flow that keeps its source port, so that conntrack sees it as one.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        protocol: str = "tcp",
        timeout: float = 2.0,
        source: str | None = None,
    ) -> None:
        kind, number = kind_of(protocol)
        self._endpoint = namespace.socket(family_of(address), kind, number)
        self._received = b""
        self._endpoint.settimeout(timeout)
        try:
            if source:
                self._endpoint.bind((source, 0))
            self._endpoint.connect((address, port))
            self.first: Answer = self._greeting(kind)
        except OSError:
            self._endpoint.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, text: str = "?") -> Answer:
        """Send a line and return who answered; OSError (timeout, reset, refused) when nobody does."""
        self._endpoint.send(text.encode() + b"\n")
        return self._line()

    @property
    def port(self) -> int:
        """The client's own port, as it sees it itself."""
        return int(self._endpoint.getsockname()[1])

    def close(self) -> None:
        self._endpoint.close()

    def _greeting(self, kind: int) -> Answer:
        return self.ask() if kind == socket.SOCK_DGRAM else self._line()

    def _line(self) -> Answer:
        while b"\n" not in self._received:
            received = self._endpoint.recv(LINE_BYTES)
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
            self._received += received
        line, _newline, self._received = self._received.partition(b"\n")
        return _parse(line)
