# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules on every Python that a managed host may have, as far as this machine has it: each changes the kernel alike."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from itertools import count
from typing import Any

import pytest
from repetition import repetition

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from lab.namespaces import Namespace
from module_runner import MANAGED_HOST_PYTHON, run_module_ok

OLDEST, NEWEST = 9, 14
NODE = {"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24", "fd00:1::/64"]}
SERVICES: list[dict[str, Any]] = [
    {
        "name": "web",
        "vip": ["10.96.0.1", "fd96::1"],
        "port": 80,
        "node_port": 30080,
        "session_affinity": "client_ip",
        "external_traffic_policy": "local",
        "backends": [
            {"address": "10.0.0.1", "port": 8080, "weight": 3, "node": "node1"},
            {"address": "10.0.0.2", "port": 8080},
            {"address": "fd00:1::1", "port": 8080},
        ],
    },
    {"name": "dns", "vip": "10.96.0.1", "port": 53, "protocol": "udp", "backends": [{"address": "10.0.0.3"}]},
    {"name": "empty", "load_balancer_ips": "192.0.2.80", "source_ranges": ["198.51.100.0/24"], "port": 443},
]
MANY = [
    {"name": f"s{number}", "vip": f"10.97.0.{number}", "port": 80, "backends": [{"address": f"10.0.0.{number}"}]}
    for number in range(1, 251)
]
CONVERGED: list[tuple[str, dict[str, Any]]] = [
    (
        "ipset_entry",
        {"set": "web", "type": "hash:ip,port", "entries": ["10.0.0.1,tcp:80", {"entry": "10.0.0.2,udp:53"}]},
    ),
    ("nat_chain", {"chain": "WEB", "rules": ["-p tcp --dport http -m set --match-set web dst,dst -j RETURN"]}),
    ("vip_service", {"services": SERVICES, "node": NODE}),
    ("vip_service", {"payload": pack(MANY)._asdict(), "node": NODE, "exclusive": True}),
    ("vip_service", {"state": "absent", "exclusive": True, "node": NODE}),
    ("nat_chain", {"chain": "WEB", "state": "absent"}),
    ("ipset_entry", {"set": "web", "state": "absent"}),
]
_numbers = count()


def _runs(path: str) -> bool:
    """pyenv has names of interpreters that do not run."""
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


INTERPRETERS = [
    path for path in (shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST + 1)) if path and _runs(path)
]


@cache
def changes(interpreter: str) -> list[Any]:
    """What each of the runs changes, one after the other, on a host of this Python: predicted, done, and not done again."""
    diffs = []
    with Namespace(f"l4python{os.getpid()}n{next(_numbers)}") as host:
        for module, options in CONVERGED:
            predicted = run_module_ok(host, module, options, check=True, interpreter=interpreter)
            real = run_module_ok(host, module, options, interpreter=interpreter)
            assert (predicted["changed"], predicted["diff"]) == (real["changed"], real["diff"]) == (True, real["diff"])
            assert not run_module_ok(host, module, options, interpreter=interpreter)["changed"]
            diffs.append(real["diff"])
    return diffs


@pytest.mark.parametrize(
    "interpreter",
    [repetition(path) if path in INTERPRETERS[1:-1] else path for path in INTERPRETERS],
    ids=[os.path.basename(path) for path in INTERPRETERS],
)
def test_each_python_changes_the_same(interpreter: str) -> None:
    assert changes(interpreter) == changes(MANAGED_HOST_PYTHON)


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=os.path.basename)
def test_each_python_reads_the_same(interpreter: str) -> None:
    backends = [{"address": "10.0.0.1", "port": 8080}]
    with Namespace(f"l4python{os.getpid()}n{next(_numbers)}") as host:
        run_module_ok(host, "vip_service", {"services": SERVICES, "node": NODE})
        for module, options in (("service_proxy_info", {}), ("backend_connections_info", {"backends": backends})):
            expected = run_module_ok(host, module, options)
            del expected["invocation"]
            read = run_module_ok(host, module, options, interpreter=interpreter)
            del read["invocation"]
            assert {**read, "waited": 0} == {**expected, "waited": 0}
