# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is given services, and keeps them for a boot that is played: its rules, sets and addresses are flushed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.hosts import Host
from module_runner import COLLECTION, LEGACY_TOOLS, MANAGED_HOST_PYTHON

LIBRARY = COLLECTION / ".cache" / "collections"
DIRECTORY = "/var/lib/layer4-service-proxy"
PROGRAM = "/usr/local/sbin/layer4-service-proxy"
NODE = {"name": "node", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24"]}
OURS = re.compile(r"^:L4-|^-A L4-|-[jg] L4-[A-Z-]+$")

_WRITER = """
import hashlib, json, sys
given = json.load(sys.stdin)
sys.path.insert(0, given["library"])
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import Xtables
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import exclusive_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_facilities import Host
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Jump, Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan

def digest(value):
    return hashlib.sha256(json.dumps([value, given["more"]]).encode()).hexdigest()

def services_state():
    node = parse_node(given["node"])
    return BootState(rules=compile_services(parse_services(given["services"], "iptables", node), node), **given["more"])

def extra_state():
    rules = {("filter", "L4-BRIDGE"): given["bridge"]}
    jump = Jump("filter", "FORWARD", '-m comment --comment "L4 bridges" -j L4-BRIDGE')
    return BootState(rules={"ipv4": Desired(rules, [jump])})

parts = {}
if "bridge" in given:
    parts["bridge"] = boot.Part(extra_state, digest(given["bridge"]), {"bridge": given["bridge"]})
if "services" in given:
    parts["services"] = boot.Part(services_state, digest(given["services"]), {k: given[k] for k in ("services", "node")})
parts.update(dict.fromkeys(given["gone"]))
with exclusive_run(60):
    kept = boot.observe()
    change = boot.plan_boot(parts, boot.Settings(given["restore"], given["reapply"]), kept)
    if given["apply"]:
        for part in parts.values() if not given["check"] else ():
            for family, desired in (part.state().rules.items() if part else ()):
                tables = Xtables(Host(), family)
                hooks = {key: tables.list_chain(*key) or [] for key in {(jump.table, jump.hook) for jump in desired.jumps}}
                tables.restore(plan(desired, Observed(hooks=hooks)).restore)
    if not given["check"] and change.changed:
        change.apply()
json.dump({"changed": change.changed, "before": change.before, "after": change.after, "warnings": list(change.warnings),
    "problems": list(kept.problems), "asked": kept.asked}, sys.stdout)
"""


class BootHost:
    """A host, with iptables-nft or iptables-legacy."""

    def __init__(self, host: Host, legacy: bool = False) -> None:
        self.host = host
        self.path = os.environ["PATH"]
        if legacy:
            multi = shutil.which("xtables-legacy-multi", path="/usr/sbin:/sbin")
            assert multi, "xtables-legacy-multi is not installed"
            host.run("mkdir", "/opt/legacy")
            for tool in LEGACY_TOOLS:
                host.run("ln", "-s", multi, f"/opt/legacy/{tool}")
            self.path = f"/opt/legacy:{self.path}"

    def write(
        self,
        *,
        check: bool = False,
        apply: bool = True,
        restore: bool = True,
        reapply: bool = False,
        gone: Sequence[str] = (),
        **given: Any,
    ) -> dict[str, Any]:
        """Set services, or ``bridge``, and keep them for boot; what the plan said. apply: whether the kernel gets them, too."""
        settings = {"check": check, "apply": apply, "restore": restore, "reapply": reapply, "gone": list(gone)}
        text = json.dumps({"library": str(LIBRARY), "node": NODE, "more": {}, **settings, **given})
        done = self.run(MANAGED_HOST_PYTHON, "-c", _WRITER, text=text)
        found: dict[str, Any] = json.loads(done)
        return found

    def run(self, *argv: str, text: str | None = None) -> str:
        done = self.host.run(*argv, env={"PATH": self.path}, input=text, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def boot(self, action: str = "restore", path: str = "") -> subprocess.CompletedProcess[str]:
        """Call the program as its unit does."""
        return self.host.run(PROGRAM, "boot", action, check=False, env={"PATH": path or self.path})

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.host.run(PROGRAM, *words, check=False, env={"PATH": self.path})

    def held(self, family: str = "iptables", *, ours: bool = True) -> list[str]:
        """Chains and rules in their order, ours with the jumps to them, or all others."""
        lines = [line for line in self.run(f"{family}-save").splitlines() if line.startswith((":", "-A"))]
        return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if (OURS.search(line) is not None) == ours]

    def flush(self) -> None:
        """Take away all rules and sets, as a boot does."""
        for tool in ("iptables", "ip6tables"):
            for table in ("nat", "filter", "mangle", "raw"):
                self.run(tool, "-t", table, "-F")
                self.run(tool, "-t", table, "-X")
        self.run("ipset", "destroy")

    def outside(self, path: str) -> Path:
        """A path of the host that has been written there."""
        return self.host.view / "written" / path.lstrip("/")

    def files(self) -> Mapping[str, str]:
        """The files of the current generation and their digests."""
        return dict(
            line.split()[::-1] for line in self.run("sh", "-c", f"cd {DIRECTORY}/current/ && sha256sum *").splitlines()
        )


@contextmanager
def boot_host(name: str, legacy: bool = False) -> Iterator[BootHost]:
    with Host(name) as host:
        yield BootHost(host, legacy)


def service(number: int, **options: Any) -> dict[str, Any]:
    """A service with three backends of each family."""
    backends = [{"address": f"10.0.0.{at + 1}"} for at in range(3)] + [
        {"address": f"2001:db8:1::{at + 1:x}"} for at in range(3)
    ]
    return {
        "name": f"service-{number}",
        "vip": [f"10.96.{number // 250}.{number % 250 + 1}", f"2001:db8:96::{number:x}"],
        "port": 80,
        "backends": backends,
        **options,
    }
