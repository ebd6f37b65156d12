# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network namespaces, the wires between them, and code that runs inside them.

Everything here needs root. Names follow ip-netns(8): a namespace named NAME is the file /run/netns/NAME.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket as sockets
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    TypeVar,
)

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")

NETNS_DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000
TERMINATE_SECONDS = 3.0
ADDRESS_SECONDS = 3.0
HINDRANCES = (
    "net.ipv4.icmp_ratelimit",
    "net.ipv6.icmp.ratelimit",
    "net.ipv6.conf.all.accept_dad",
    "net.ipv6.conf.default.accept_dad",
)

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int, kind: int) -> None:
    """setns(2) of the calling thread (os.setns needs Python 3.12)."""
    if _libc.setns(descriptor, kind) != 0:
        error = ctypes.get_errno()
        raise OSError(error, "setns: " + os.strerror(error))


def ip(*arguments: str) -> str:
    """Run ip(8) and return its output; CalledProcessError carries its message in stderr."""
    done = subprocess.run(("ip",) + arguments, check=True, capture_output=True, text=True)
    return done.stdout


class Namespace:
    """A network namespace by name; as a context manager it exists for the length of the block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started: list[subprocess.Popen[str]] = []

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    def __enter__(self) -> Self:
        return self.create()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.delete()

    @property
    def path(self) -> Path:
        return NETNS_DIRECTORY / self.name

    def exists(self) -> bool:
        return self.path.exists()

    def create(self) -> Self:
        """Make the namespace and bring its loopback up; CalledProcessError if the name is taken.

        ICMP errors are not rate limited here, so that each refused datagram of a test gets its own, and IPv6 addresses
        are not probed for duplicates, which would keep them unusable for a second.
        """
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        for name in HINDRANCES:
            self.sysctl(name, 0)
        return self

    def delete(self) -> None:
        """End what runs in here and remove the namespace; harmless when there is none."""
        while self._started:
            _end(self._started.pop())
        if self.exists():
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            ip("netns", "delete", self.name)

    def processes(self) -> list[int]:
        """Ids of the processes in here."""
        return [int(line) for line in ip("netns", "pids", self.name).split()]

    def ip(self, *arguments: str) -> str:
        """ip(8) on this namespace's links, addresses and routes."""
        return ip("-n", self.name, *arguments)

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - its name in subprocess.run
        env: dict[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with output captured; `env` adds to the caller's environment."""
        return subprocess.run(
            self._inside(argv),
            check=check,
            input=input,
            env=_environment(env),
            timeout=timeout,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
        )

    def start(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command inside that lives until `delete`, unless it ends earlier; its output is a pipe."""
        process = subprocess.Popen(
            self._inside(argv),
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call `function` in a thread that has entered the namespace; its result or exception is the caller's.

        Sockets that it opens, and what it reads under /proc/sys/net, are the namespace's.
        """

        def inside() -> Result:
            with open(self.path, "rb") as handle:
                _setns(handle.fileno(), CLONE_NEWNET)
            return function(*arguments)

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns-" + self.name) as threads:
            return threads.submit(inside).result()

    def socket(
        self,
        family: int = sockets.AF_INET,
        kind: int = sockets.SOCK_STREAM,
        proto: int = 0,
    ) -> sockets.socket:
        """A socket that belongs to this namespace, usable from any thread."""
        return self.call(sockets.socket, family, kind, proto)

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        """The value of net.* sysctl `name` (dots or slashes) in here, after setting it to `value` if given."""
        path = Path("/proc/sys") / (name if "/" in name else name.replace(".", "/"))
        if value is not None:
            self.call(path.write_text, str(value))
        return self.call(path.read_text).strip()

    def add_address(self, interface: str, *addresses: str) -> None:
        """Add addresses with prefix length to an interface. They can be used when this returns.

        Even without duplicate address detection the kernel makes an IPv6 address usable a little later, from a queue;
        on an interface that is down it stays tentative, so that only one that is up is waited for.
        """
        for address in addresses:
            self.ip("address", "add", address, "dev", interface)
        give_up = time.monotonic() + ADDRESS_SECONDS
        while any(":" in address for address in addresses) and time.monotonic() < give_up:
            if not self.ip("-6", "address", "show", "dev", interface, "up", "tentative"):
                return
            time.sleep(0.01)

    def add_route(self, destination: str, *via: str) -> None:
        """Route `destination` (a CIDR, or "default" with an IPv4 gateway, or "::/0") as in `via GATEWAY dev NAME`."""
        self.ip("route", "add", destination, *via)

    def add_bridge(self, name: str, *ports: str, addresses: Sequence[str] = ()) -> None:
        """A bridge that is up, with these interfaces as its ports and these addresses of its own."""
        self.ip("link", "add", name, "type", "bridge", "forward_delay", "0")
        for port in ports:
            self.ip("link", "set", port, "master", name)
        self.add_address(name, *addresses)
        self.ip("link", "set", name, "up")

    def _inside(self, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]


def link(a: Namespace, interface_a: str, b: Namespace, interface_b: str) -> None:
    """A veth pair between two namespaces (or within one), both ends up; one side's delete removes it.

    Made in one of them: older kernels want the name to be free where the command is given, too.
    """
    ip("-netns", a.name, "link", "add", interface_a, "type", "veth", "peer", "name", interface_b, "netns", b.name)
    a.ip("link", "set", interface_a, "up")
    b.ip("link", "set", interface_b, "up")


def _environment(extra: dict[str, str] | None) -> dict[str, str] | None:
    return None if extra is None else {**os.environ, **extra}


def _end(process: subprocess.Popen[str]) -> None:
    """Terminate a child by its id, kill it if it will not go, and reap it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
