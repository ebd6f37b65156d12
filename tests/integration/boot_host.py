# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is given services, and keeps them for a boot that is played: its rules, sets and addresses are flushed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_generations
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_files import render
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_parts import services_part
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.given import Given
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from lab.hosts import Host
from lab.namespaces import Namespace
from module_runner import COLLECTION, LEGACY_TOOLS, MANAGED_HOST_PYTHON, library_path

LIBRARY = COLLECTION / ".cache" / "collections"
DIRECTORY = "/var/lib/layer4-service-proxy"
PROGRAM = "/usr/local/sbin/layer4-service-proxy"
NODE = {"name": "node", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24"]}
SET_ODD_RULES = """
while IFS= read -r -d "" text; do iptables -t nat -A OUTPUT -m comment --comment "$text" -j RETURN; done
"""
"""For bash, with comments on standard input, each behind a null character."""
RULES_OF_OTHERS = "iptables-save -t nat | grep -a -v L4- | sed 's/\\[[0-9:]*\\]//; /^#/d' | sha256sum"
OURS = re.compile(r"^:L4-|^-A L4-|-[jg] L4-[A-Z-]+$")

_WRITER = """
import json, sys
given = json.load(sys.stdin)
sys.path.insert(0, given["library"])
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import Xtables
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import exclusive_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_facilities import Host
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_parts import chains_part, services_part
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import merge_diffs
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.given import Given
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import SPECIFICATION
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import parse_chain

kept, parts = boot.observe(), {}
if "bridge" in given:
    jumps = [{"from": "FORWARD", "match": None, "position": "first", "comment": "L4 bridges"}]
    options = {"chain": "L4-BRIDGE", "table": "filter", "ip_version": "ipv4", "state": "present"}
    parts["bridge"] = chains_part([parse_chain({**options, "rules": given["bridge"], "jumps": jumps})])
if "services" in given:
    settings = {**dict.fromkeys(SPECIFICATION), **given["node"], "dataplane": "iptables", "exclusive": True}
    made = services_part(Given(settings, pack(given["services"])), [], [], parse_node(given["node"]), kept.program)
    parts["services"] = made._replace(
        state=lambda: made.state()._replace(**given["more"]), digest=made.digest + json.dumps(given["more"])
    )
parts.update(dict.fromkeys(given["gone"]))
with exclusive_run(60):
    kept = boot.observe()
    changes = boot.plan_boot(parts, boot.Settings(given["restore"], given["reapply"]), kept, Host())
    if given["apply"]:
        for part in parts.values() if not given["check"] else ():
            for family, desired in (part.state().rules.items() if part else ()):
                tables = Xtables(Host(), family)
                hooks = {key: tables.list_chain(*key) or [] for key in {(jump.table, jump.hook) for jump in desired.jumps}}
                tables.restore(plan(desired, Observed(hooks=hooks)).restore)
    for change in changes if not given["check"] else ():
        if change.changed:
            change.apply()
diff = merge_diffs(changes)
json.dump({"changed": any(one.changed for one in changes), **diff, "problems": list(kept.problems)}, sys.stdout)
"""


_RESTORE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_restore import run
sys.exit(run(sys.argv[2], Path(sys.argv[3])))
"""


def keep(directory: Path, number: int, state: BootState, **more: BootState) -> None:
    """Write a generation of services, and of more parts."""
    parts = {"services": state, **more}
    files = {f"{part}.{name}": content for part, one in parts.items() for name, content in render(one).items()}
    boot_generations.store(directory, number, dict(files), dict.fromkeys(parts, ""), {})


def state_of(services: list[dict[str, Any]], node: Mapping[str, Any], dataplane: str = "iptables") -> BootState:
    """What a node keeps of services."""
    given = Given({**DEFAULTS, "dataplane": dataplane}, pack(services))
    return services_part(given, [], [], parse_node(dict(node)), b"").state()


def restore(
    node: Namespace, directory: Path, action: str = "reload", path: str = "", timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Do what the node's program does, with what is kept in a directory of this machine."""
    argv = (MANAGED_HOST_PYTHON, "-c", _RESTORE, library_path(), action, str(directory))
    return node.run(*argv, check=False, env={"PATH": path or os.environ["PATH"]}, timeout=timeout)


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


def odd_texts(count: int) -> list[str]:
    """Comments of at most 255 bytes as people and tools may write them, made of what shells, iptables and line readers take apart."""
    chance = random.Random(23)
    pieces = [
        '"',
        "\\",
        "'",
        "$(touch /PWNED)",
        "`touch /PWNED`",
        "\n-A L4-SERVICES -j ACCEPT\n",
        '\n-A OUTPUT -m comment --comment "L4 services" -j L4-SERVICES\n',
        "\n*nat\n",
        "\nCOMMIT\n",
        "-j",
    ]
    pieces += ["\u2028", "\x85", "\x0b", "\x1b[2J", "\t", "%s", "L4-SERVICES", " ", "é", "\U0001f600", "#", "x", "\n"]
    found = []
    for _one in range(count):
        text = "".join(chance.choice(pieces) for _piece in range(chance.randint(1, 12)))
        while len(text.encode()) > 255:
            text = text[:-1]
        found.append(text)
    return found
