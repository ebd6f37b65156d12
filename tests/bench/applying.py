# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of vip_service takes, against loading the same rules with iptables-restore into an empty namespace."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from layouts import NODE, service, services

from ansible_collections.layer4.service_proxy.plugins.module_utils.offline import render_services
from ansible_collections.layer4.service_proxy.plugins.module_utils.payload import pack
from lab.namespaces import Namespace
from module_runner import legacy_path, run_module_ok

_LONGEST = 600.0
_OPAQUE = 200
"""From so many services on the action plugin sends them as one text."""


class Applying(NamedTuple):
    """Seconds; memory in MiB, the most that the first run or a tool that it ran has had."""

    back_end: str
    services: int
    floor: float
    first: float
    nothing: float
    one_changed: float
    memory: float


def measure(back_end: str, count: int) -> Applying:
    """Of so many services with three backends each."""
    wanted = services(count)
    floor = _floor(back_end, render_services(wanted, {"node": NODE, "ip_version": "ipv4"}))
    with _namespace() as host:
        first, memory = _in_a_child(lambda: _converge(host, back_end, wanted))
        nothing = _timed(lambda: _converge(host, back_end, wanted))
        wanted[count // 2] = service(count // 2, backends=2)
        one_changed = _timed(lambda: _converge(host, back_end, wanted))
    return Applying(back_end, count, floor, first, nothing, one_changed, memory)


@contextmanager
def _namespace() -> Iterator[Namespace]:
    with Namespace("l4bench%d" % os.getpid()) as host:
        yield host


def _floor(back_end: str, rules: str) -> float:
    with _namespace() as host:
        tool = "xtables-%s-multi" % back_end
        return _timed(lambda: host.run(tool, "iptables-restore", input=rules, timeout=_LONGEST))


def _converge(host: Namespace, back_end: str, wanted: list[dict[str, Any]]) -> None:
    """As the action plugin does: of many services the digest first."""
    path = legacy_path() if back_end == "legacy" else None
    if len(wanted) < _OPAQUE:
        _run(host, path, services=wanted)
        return
    payload = pack(wanted)
    if _run(host, path, payload={"digest": payload.digest}).get("services_needed"):
        _run(host, path, payload=payload._asdict())


def _run(host: Namespace, path: str | None, **options: Any) -> dict[str, Any]:
    arguments = {"node": NODE, "exclusive": True, **options}
    return run_module_ok(host, "vip_service", arguments, path_prefix=path, timeout=_LONGEST)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _in_a_child(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of work in a child process, and MiB of the greatest process of it. Raises ChildProcessError when it fails."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _pid, status, usage = os.wait4(child, 0)
    if status:
        raise ChildProcessError("the run failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024
