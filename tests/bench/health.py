# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What health checks cost: processor, memory and sockets of the checker, and how long the kernel takes to follow a check.

    python tests/bench/health.py [--quick] [--output docs/benchmarks]

Needs root, takes some five minutes, wants a quiet machine. Writes health.md.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Callable, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), *(str(CHECKOUT / part) for part in (".cache/collections", "tests/integration"))]

import command
from checked import CHECKER
from command import told

from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.services import Services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.health_record import forget_failed
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.host import LocalHost
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.checks import Probe
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.rules_state import generation
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import exclusive_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_generations
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_facilities import Host
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from lab.namespaces import Namespace, link

INTERVAL = 5
DATAPLANES = ("nftables", "iptables")
FLIPS = 7
NODE = {"name": "node1", "addresses": ["192.0.2.1"], "local_cidrs": ["10.0.0.0/8"]}
_SERVER = """
import socket
one = socket.create_server(("", 8080), backlog=4096)
print("serving", flush=True)
while True:
    one.accept()[0].close()
"""


class Checking(NamedTuple):
    """The checker while all backends are healthy. processor: percent of one. memory: MiB."""

    checks: int
    processor: float
    memory: float
    descriptors: int


class Flip(NamedTuple):
    """Seconds from the deciding check until the kernel's rules have changed, and to the end of the run that does it."""

    services: int
    dataplane: str
    changed: float
    ended: float


def main(arguments: Sequence[str]) -> None:
    options = command.parse(__doc__, arguments)
    counts = (100, 1000) if options.quick else (100, 1000, 10_000)
    checking = [told(_measure_checks(count, 10 if options.quick else 30)) for count in counts]
    flips = [told(_measure_flip(count, one)) for count in counts[1:] for one in DATAPLANES]
    (options.output / "health.md").write_text(page(checking, flips))


def _services(count: int, backends: int) -> list[dict[str, Any]]:
    return [
        {
            "name": f"s{number}",
            "vip": f"192.168.{number // 250}.{number % 250 + 1}",
            "port": 80,
            "health_check": {"interval": INTERVAL},
            "backends": [
                {"address": f"10.{at}.{number // 250}.{number % 250 + 1}", "port": 8080} for at in range(backends)
            ],
        }
        for number in range(count)
    ]


@contextmanager
def given(services: Sequence[Any], dataplane: str, node: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A directory with a generation that asks for these services."""
    with tempfile.TemporaryDirectory() as directory:
        asked = {
            "settings": {**DEFAULTS, **(node or NODE), "dataplane": dataplane},
            "services": pack(services)._asdict(),
        }
        path = Path(directory, "kept")
        boot_generations.store(path, 1, {}, {"services": ""}, {"services": asked})
        yield path


def _measure_checks(count: int, seconds: int) -> Checking:
    prefix = f"l4bh{os.getpid()}"
    with (
        Namespace(f"{prefix}-node") as node,
        Namespace(f"{prefix}-backends") as backends,
        given(_services(count, 1), "nftables") as directory,
    ):
        link(node, "eth0", backends, "eth0")
        node.add_address("eth0", "192.0.2.1/24")
        backends.add_address("eth0", "192.0.2.2/24")
        node.add_route("10.0.0.0/8", "via", "192.0.2.2")
        backends.run("ip", "link", "set", "lo", "up")
        backends.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
        server = backends.start(sys.executable, "-c", _SERVER)
        assert server.stdout
        server.stdout.readline()
        checker = node.start(sys.executable, "-c", CHECKER, str(CHECKOUT / ".cache" / "collections"), str(directory))
        time.sleep(2 * INTERVAL)
        before = _processor(checker.pid)
        time.sleep(seconds)
        used = _processor(checker.pid) - before
        status = Path(f"/proc/{checker.pid}/status").read_text()
        memory = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        descriptors = len(list(Path(f"/proc/{checker.pid}/fd").iterdir()))
    return Checking(count, 100 * used / seconds, memory, descriptors)


def _processor(process: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure_flip(count: int, dataplane: str) -> Flip:
    services = _services(count, 3)
    with Namespace(f"l4bh{os.getpid()}-flip") as node, given(services, dataplane) as directory:
        found = node.call(_flips, services, dataplane, directory)
    return Flip(count, dataplane, *(median(seconds) for seconds in zip(*found)))


def _flips(services: Sequence[Any], dataplane: str, directory: Path) -> list[tuple[float, float]]:
    with _watcher() as watch:
        own = Services(directory)
        own.load()
        with exclusive_run():
            plan_run(Request("present", services, True, dataplane), parse_node(NODE), LocalHost(Host())).apply()
        failed: dict[Probe, str] = {}
        found = []
        for probe in sorted(own.probes)[: FLIPS * 3 : 3]:
            failed[probe] = "timed out"
            changed_at = watch()
            started = time.perf_counter()
            assert own.converge(own.users([probe]), failed)
            ended = time.perf_counter()
            found.append((changed_at() - started, ended - started))
    forget_failed()
    return found


@contextmanager
def _watcher() -> Iterator[Callable[[], Callable[[], float]]]:
    """What begins to watch the rule set of this namespace; what that returns tells when it has changed, as another process sees it.

    The process is made while this one is small: the copies of pages that the kernel makes after a fork would be a part of a flip.
    """
    ours, its = socket.socketpair()
    process = os.fork()
    if not process:
        ours.close()
        while its.recv(1):
            before = generation()
            its.send(b"w")
            while generation() == before:
                time.sleep(0.001)
            its.send(struct.pack("d", time.perf_counter()))
        os._exit(0)
    its.close()

    def watch() -> Callable[[], float]:
        ours.send(b"w")
        ours.recv(1)
        return lambda: float(struct.unpack("d", ours.recv(8))[0])

    try:
        yield watch
    finally:
        ours.close()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def page(checking: Sequence[Checking], flips: Sequence[Flip]) -> str:
    """The page of the documentation."""
    lines = [
        "# Benchmarks of health checks",
        "",
        f"Made by `tests/bench/health.py` on {time.strftime('%Y-%m-%d')}, Linux {platform.release()}, Python {platform.python_version()},",
        f"{os.cpu_count()} processors.",
        "",
        f"The checker, TCP checks every {INTERVAL} seconds, all backends healthy:",
        "",
        "| checks | processor (of one) | memory | descriptors |",
        "| --- | --- | --- | --- |",
        *(f"| {one.checks:,} | {one.processor:.1f} % | {one.memory:.0f} MiB | {one.descriptors} |" for one in checking),
        "",
        "Seconds from the deciding check until the kernel's rules have changed, and to the end of the run that does it, what it leaves for the",
        f"next included. Services with three backends each; median of {FLIPS}:",
        "",
        "| services | dataplane | until the rules have changed | to the end |",
        "| --- | --- | --- | --- |",
        *(f"| {one.services:,} | {one.dataplane} | {one.changed:.2f} | {one.ended:.2f} |" for one in flips),
        "",
        "With IPVS: [against ipvsadm](ipvs.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
