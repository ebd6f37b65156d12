# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the kernel's command line tools are found and run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class Runner(Protocol):
    """What a kernel facility needs of its host to run tools; unit tests hand in a fake."""

    def find(self, tool: str) -> str | None:
        """The path of a tool, None when it is not installed."""

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """Run a tool in the C locale; its exit code, standard output and standard error."""


class ModuleRunner:
    """The managed host, by the means of a module."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def find(self, tool: str) -> str | None:
        path: str | None = self._module.get_bin_path(tool)
        return path

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """As `Runner.run`. Not by AnsibleModule.run_command, which ends the module, with its own words and without
        undoing anything, when a tool that refuses its input closes it early.
        """
        done = subprocess.run(
            argv,
            input=stdin,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        return done.returncode, done.stdout, done.stderr
