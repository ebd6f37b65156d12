# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new connection costs through a node's rules: its time against that of a direct one, measured in turns.

    client 10.0.1.2 ──┬── 10.0.1.1 node 10.0.0.1 ─────┬── backend 10.0.0.2, 10.0.3.2
           10.0.2.2 ──┴── 10.0.2.1 plain 10.0.3.1 ────┴──

A direct connection goes to 10.0.3.2, through a router that has no rules at all.
"""

from __future__ import annotations

import os
import random
import select
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice, repeat
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from layouts import BACKEND, BACKEND_PORT

from lab.namespaces import Namespace, link

if TYPE_CHECKING:
    from typing_extensions import Self

Address = tuple[str, int]
ROUNDS = 60
PER_ROUND = 40
DIRECT = "10.0.3.2"
NO_SERVICE = (BACKEND, BACKEND_PORT)
_NAME = "l4bench%d-%s"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Target(NamedTuple):
    """What is connected to, and how many ports of the backend it leads to: what is far apart in memory costs more."""

    address: Address
    ports: int

    def through(self) -> Iterator[Address]:
        return repeat(self.address)

    def direct(self) -> Iterator[Address]:
        """Connections to as many ports, by chance as well, and beside all rules."""
        while True:
            yield (DIRECT, BACKEND_PORT + random.randrange(self.ports))


class Bench:
    """A context manager: the three hosts. ports: how many the backend serves."""

    def __init__(self, ports: int = 3) -> None:
        names = ("client", "node", "plain", "backend")
        self.client, self.node, self.plain, self.backend = (Namespace(_NAME % (os.getpid(), name)) for name in names)
        self._ports = range(BACKEND_PORT, BACKEND_PORT + ports)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            for host in (self.client, self.node, self.plain, self.backend):
                stack.enter_context(host)
            self._wire(self.node, "node", "10.0.1", "10.0.0")
            self._wire(self.plain, "plain", "10.0.2", "10.0.3")
            self.client.add_route("default", "via", "10.0.1.1")
            stack.enter_context(_Acceptor(self.backend, self._ports))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _wire(self, router: Namespace, name: str, outside: str, inside: str) -> None:
        for host, network in ((self.client, outside), (self.backend, inside)):
            link(host, name, router, f"to-{network}")
            host.add_address(name, network + ".2/24")
            router.add_address(f"to-{network}", network + ".1/24")
        self.client.add_route(inside + ".0/24", "via", outside + ".1")
        self.backend.add_route(outside + ".0/24", "via", inside + ".1")
        router.sysctl("net.ipv4.ip_forward", 1)

    def measure(self, targets: Mapping[str, Target], rounds: int = ROUNDS) -> dict[str, float]:
        """What a connection to each target takes, as a ratio to a direct one: the median of all rounds.

        In each round every target has its turn beside direct connections that are spread alike, so that what else the
        machine does meets both.
        """
        ratios: dict[str, list[float]] = {name: [] for name in targets}

        def turns() -> None:
            for _round in range(rounds):
                for name, target in targets.items():
                    floor = statistics.median(_times(target.direct()))
                    ratios[name].append(statistics.median(_times(target.through())) / floor)

        self.client.call(turns)
        return {name: statistics.median(found) for name, found in ratios.items()}

    def rate(self, target: Target, rounds: int = ROUNDS) -> float:
        """Connections per second to a target, one after another, as a ratio to direct ones that are spread alike."""

        def turns() -> float:
            ratios = [sum(_times(target.direct())) / sum(_times(target.through())) for _round in range(rounds)]
            return statistics.median(ratios)

        return self.client.call(turns)


def _times(addresses: Iterator[Address]) -> list[float]:
    """Seconds of each of a number of connections."""
    return [_connect(address) for address in islice(addresses, PER_ROUND)]


def _connect(target: Address) -> float:
    """Seconds of a connect. Closed by a reset, so that no port waits for its end."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        start = time.perf_counter()
        connection.connect(target)
        return time.perf_counter() - start


class _Acceptor:
    """Takes connections to ports of a host and drops them; a context manager."""

    def __init__(self, host: Namespace, ports: range) -> None:
        self._sockets = [host.socket() for _port in ports]
        for listening, port in zip(self._sockets, ports):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("", port))
            listening.listen(1024)
            listening.setblocking(False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        for listening in self._sockets:
            listening.close()

    def _run(self) -> None:
        poll = select.epoll()
        by_number = {listening.fileno(): listening for listening in self._sockets}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        with poll:
            while not self._done.is_set():
                for number, _events in poll.poll(0.1):
                    self._take(by_number[number])

    def _take(self, listening: socket.socket) -> None:
        try:
            listening.accept()[0].close()
        except OSError:
            return
