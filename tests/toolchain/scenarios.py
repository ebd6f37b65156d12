# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run Molecule's scenarios so that hosts on which one has failed can still tell why, and so that nothing is left of them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Callable

from paths import CHECKOUT

BASE_CONFIG = CHECKOUT / ".config" / "molecule" / "config.yml"
IN_CONTAINERS = ("default", "firewalls", "health", "nftables", "teardown")
REPEATED_IN_CONTAINERS = ("announce", "dualstack", "legacy", "overlay", "roles")
ON_MACHINES = ("reboot",)
REPEATED_ON_MACHINES = ("ipvs",)
"""Scenarios whose parts other tests prove in namespaces or machines: `make test-kernels` runs them."""
EVIDENCE = """set -x
iptables-save; ip6tables-save; ipset save; ip address; bridge -d link; ipvsadm --save --numeric
systemctl --failed; journalctl --no-pager"""


def tested(names: Sequence[str], keep_evidence: Callable[[], None]) -> int:
    """Test these scenarios, one after another until one fails; 1 if one did, else 0."""
    chosen = [f"--scenario-name={name}" for name in names]
    _molecule("destroy", *chosen)
    failed = _molecule("test", "--destroy=never", *chosen)
    if failed:
        keep_evidence()
    return 1 if _molecule("destroy", *chosen) or failed else 0


def _molecule(*arguments: str) -> int:
    command = ["molecule", "--base-config", str(BASE_CONFIG), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode
