# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network namespaces, the wires between them, and code that runs inside them.

Everything here needs root. Names follow ip-netns(8): a namespace named NAME is the file /run/netns/NAME.
"""

from __future__ import annotations

import os
import signal
import socket as sockets
import subprocess
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

from pyroute2 import IPRoute, config, netns

from . import rtnetlink

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")

NETNS_DIRECTORY = Path("/run/netns")
TERMINATE_SECONDS = 3.0
HINDRANCES = (
    "net.ipv4.icmp_ratelimit",
    "net.ipv6.icmp.ratelimit",
    "net.ipv6.conf.all.accept_dad",
    "net.ipv6.conf.default.accept_dad",
)
config.default_communicate_timeout = 60  # seconds that a busy machine may take to make a namespace; 2 by default


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
        """Make the namespace and bring its loopback up; FileExistsError if the name is taken.

        ICMP errors are not rate limited here, so that each refused datagram of a test gets its own, and IPv6 addresses
        are not probed for duplicates, which would keep them unusable for a second.
        """
        netns.create(str(self.path))
        try:
            self.rtnetlink(rtnetlink.set_up, "lo")
            for name in HINDRANCES:
                self.sysctl(name, 0)
        except BaseException:
            self.delete()
            raise
        return self

    def delete(self) -> None:
        """End what runs in here and remove the namespace; harmless when there is none.

        RuntimeError if it is the caller's own namespace under another name: that one's processes are not to be ended.
        """
        while self._started:
            _end(self._started.pop())
        if self.exists():
            if self.path.samefile("/proc/thread-self/ns/net"):
                raise RuntimeError(f"{self.path} is the namespace of this process")
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            netns.remove(str(self.path))

    def processes(self) -> list[int]:
        """Ids of the processes in here."""
        found: dict[str, list[int]] = netns.ns_pids(str(NETNS_DIRECTORY))
        return found.get(self.name, [])

    def ip(self, *arguments: str) -> str:
        """ip(8) on this namespace's links, addresses and routes, for what tests do and see as people would."""
        return ip("-n", self.name, *arguments)

    def rtnetlink(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call `function` with pyroute2's IPRoute of this namespace; NetlinkError is what the kernel refused."""

        def opened() -> Result:
            with IPRoute() as route:
                return function(route, *arguments)

        return self.call(opened)

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
            netns.setns(str(self.path), flags=0)
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
        self.rtnetlink(rtnetlink.add_addresses, interface, addresses)

    def add_route(self, destination: str, *via: str) -> None:
        """Route `destination` (a CIDR, or "default" with an IPv4 gateway, or "::/0") as in `via GATEWAY dev NAME`.

        Further words are `table NUMBER` and `onlink`; ValueError for another one.
        """
        self.rtnetlink(rtnetlink.add_route, destination, via)

    def add_bridge(self, name: str, *ports: str, addresses: Sequence[str] = ()) -> None:
        """A bridge that is up, with these interfaces as its ports and these addresses of its own."""
        self.rtnetlink(rtnetlink.add_bridge, name, ports, addresses)

    def add_ports(self, bridge: str, *ports: str) -> None:
        """Make these interfaces ports of a bridge, and bring them up."""
        self.rtnetlink(rtnetlink.add_ports, bridge, ports)

    def _inside(self, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]


def link(a: Namespace, interface_a: str, b: Namespace, interface_b: str) -> None:
    """A veth pair between two namespaces (or within one), both ends up; one side's delete removes it.

    Made in one of them: older kernels want the name to be free where the command is given, too.
    """
    a.rtnetlink(rtnetlink.add_veth, interface_a, interface_b, str(b.path))
    b.rtnetlink(rtnetlink.set_up, interface_b)


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
