# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the kernel's command line tools are found and run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Protocol

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
        with (
            subprocess.Popen(
                argv,
                env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
            ThreadPoolExecutor(1) as beside,
        ):
            stream, process.stdin = process.stdin, None
            beside.submit(_feed, stream, stdin.encode("utf-8", "surrogateescape"))
            output = [text.decode("utf-8", "surrogateescape") for text in process.communicate()]
        return process.returncode, output[0], output[1]


def _feed(stream: IO[bytes] | None, text: bytes) -> None:
    """In one call of the system, without Python: `Popen.communicate` takes thousands, each of which waits for other threads."""
    if stream:
        with suppress(BrokenPipeError), stream:
            stream.write(text)
