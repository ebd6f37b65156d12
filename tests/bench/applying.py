# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of vip_service takes, against loading the same rules with iptables-restore into an empty namespace."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, Callable, NamedTuple

from boot_host import keep, restore, state_of
from layouts import NODE, linear, service_apart, services_apart

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from lab.namespaces import Namespace, link
from module_runner import legacy_path, library_path, run_module_ok

_LONGEST = 600.0
TIMES = 5
"""An odd number of runs; their median tells."""
_OPAQUE = 200
"""From so many services on the action plugin sends them as one text."""


class Applying(NamedTuple):
    """Seconds; memory in MiB, the most that the first run or a tool that it ran has had. saved: for boot; restored: at boot.
    empty: a module that does nothing. kube_proxy: the tool alone, that loads kube-proxy's rules for these services; one_chain:
    that sets the chain of one service or backend. disturbed: nothing changed, but somebody else has changed a rule of his, not for
    the first time.
    """

    name: str
    services: int
    floor: float
    kube_proxy: float
    empty: float
    first: float
    nothing: float
    one_changed: float
    disturbed: float
    saved: float
    saved_one_changed: float
    restored: float
    memory: float
    one_chain: float


class Way(NamedTuple):
    """How services are put into the kernel. variant: nft or legacy; settings: of the node."""

    name: str
    variant: str
    settings: dict[str, Any]


WAYS = (
    Way("nft", "nft", {}),
    Way("legacy", "legacy", {}),
    Way("nft, lean", "nft", {"backend_chains": False}),
    Way("legacy, lean", "legacy", {"backend_chains": False}),
)


def measure(way: Way, count: int) -> Applying:
    """Of so many services with three backends each."""
    wanted = services_apart(count)
    variant, node = way.variant, {**NODE, **way.settings}
    rules = render_services(wanted, {"node": node, "ip_version": "ipv4"})
    floor, kube_proxy = _floor(variant, rules), _floor(variant, linear(wanted))
    with namespace() as host:
        run_as_ansible(host, None, "ansible.modules.ping")
        empty = timed(lambda: run_as_ansible(host, None, "ansible.modules.ping"))
        same = given_as(wanted)
        converge = partial(_converge, host, variant, node)
        first, memory = in_a_child(lambda: converge(same))
        nothing = median(timed(lambda: converge(same)) for dummy in range(TIMES))
        with tempfile.TemporaryDirectory() as kept:
            saved = timed(lambda: keep(Path(kept), 1, state_of(wanted, node)))
            wanted[count // 2] = service_apart(count // 2, backends=2)
            changed = given_as(wanted)
            saved_one_changed = timed(lambda: keep(Path(kept), 2, state_of(wanted, node)))
            with namespace("new") as new:
                restored = timed(lambda: restore_at_boot(new, variant, Path(kept)))
        there_and_back = [same, changed] * (TIMES // 2) + [same]
        one_changed = median(timed(partial(converge, to)) for to in there_and_back)
        disturbed = _disturbed(host, variant, lambda: converge(same))
        text = _one_chain(rules)
        one_chain = median(timed(lambda: _restore(host, variant, text, "--noflush")) for dummy in range(TIMES))
    costs = (floor, kube_proxy, empty, first, nothing, one_changed, disturbed, saved, saved_one_changed, restored)
    return Applying(way.name, count, *costs, memory, one_chain)


def _disturbed(host: Namespace, variant: str, converge: Callable[[], object]) -> float:
    found = []
    for port in range(1 + TIMES):
        rule = ["-p", "udp", "--dport", f"{port + 1}", "-j", "RETURN"]
        host.run(f"xtables-{variant}-multi", "iptables", "-t", "nat", "-A", "OUTPUT", *rule)
        found.append(timed(converge))
    return median(found[1:])


def _one_chain(rules: str) -> str:
    """What sets the first chain of a backend in this text, or of a service, as it is there."""
    kind = "SEP" if ":L4-SEP-" in rules else "SVC"
    name = rules[rules.index(f":L4-{kind}-") + 1 :].split(" ", 1)[0]
    lines = [line for line in rules.splitlines() if line.startswith(f"-A {name} ")]
    return "\n".join(["*nat", f":{name} - [0:0]", *lines, "COMMIT", ""])


@contextmanager
def namespace(name: str = "") -> Iterator[Namespace]:
    """One with a default route, as nodes have it."""
    with Namespace(f"l4bench{os.getpid()}{name}") as host, Namespace(f"l4bench{os.getpid()}{name}-up") as beyond:
        link(host, "eth0", beyond, "eth0")
        host.add_address("eth0", "203.0.113.1/24")
        host.add_route("default", "via", "203.0.113.2")
        yield host


def restore_at_boot(host: Namespace, variant: str, kept: Path) -> None:
    path = os.environ["PATH"]
    done = restore(host, kept, path=f"{legacy_path()}:{path}" if variant == "legacy" else path, timeout=_LONGEST)
    assert done.returncode == 0, done.stderr


def _floor(variant: str, rules: str) -> float:
    with namespace() as host:
        return timed(lambda: _restore(host, variant, rules))


def _restore(host: Namespace, variant: str, text: str, *options: str) -> None:
    """The tool alone."""
    host.run(f"xtables-{variant}-multi", "iptables-restore", *options, input=text, timeout=_LONGEST)


def given_as(wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """Services as the action plugin sends them."""
    return {"services": wanted} if len(wanted) < _OPAQUE else {"payload": pack(wanted)._asdict()}


def _converge(host: Namespace, variant: str, node: dict[str, Any], given: dict[str, Any]) -> None:
    run_as_ansible(
        host, legacy_path() if variant == "legacy" else None, "vip_service", node=node, exclusive=True, **given
    )


def run_as_ansible(host: Namespace, path: str | None, module: str, **arguments: Any) -> dict[str, Any]:
    """As Ansible does, which brings its modules as text: of Python's own library alone is there anything compiled."""
    environment = {"PYTHONPYCACHEPREFIX": _compiled_library()}
    return run_module_ok(host, module, arguments, path_prefix=path, timeout=_LONGEST, environment=environment)


@cache
def _compiled_library() -> str:
    """A directory for the interpreter to find its own library compiled in, and nothing else."""
    directory = tempfile.mkdtemp(prefix="l4-compiled-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    environment = {"PYTHONPYCACHEPREFIX": directory, "PYTHONDONTWRITEBYTECODE": ""}
    with namespace("compile") as host:
        run_module_ok(host, "vip_service", {"services": [], "node": NODE}, environment=environment)
    shutil.rmtree(directory + library_path())
    return directory


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_a_child(work: Callable[[], object]) -> tuple[float, float]:
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
