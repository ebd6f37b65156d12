# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the kernel's command line tools are found and run."""

from __future__ import annotations

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
        code, stdout, stderr = self._module.run_command(
            list(argv),
            data=stdin or None,
            binary_data=True,
            expand_user_and_vars=False,
            environ_update={"LC_ALL": "C", "LANGUAGE": "C"},
        )
        return code, stdout, stderr
