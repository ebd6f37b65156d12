# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the kernel's command line tools are found and run.

Tools run while the lock of the node is held, so that each has a time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import IO, TYPE_CHECKING, Protocol

from .._model.messages import printable_lines

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

LIMIT = 600
"""Seconds; tables of tens of thousands of services take iptables-nft minutes on a slow host."""
TIMED_OUT, NOT_STARTED = 124, 127
"""Exit codes of tools that were killed, and could not be started: those of timeout(1) and sh(1)."""
_UNTIL_KILLED = 5
"""Seconds to wait for a killed tool; one in an uninterruptible system call does not end."""


class Runner(Protocol):
    """What a kernel facility needs of its host to run tools; unit tests hand in a fake."""

    def find(self, tool: str) -> str | None:
        """Return the path of a tool, None when it is not installed."""

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """Run a tool in the C locale; its exit code, standard output and standard error.

        What it says to people cannot write to their terminals: standard error, and all output of one that failed, is printable lines.
        A tool that does not end is killed, and a tool that cannot be started is reported, as one that failed.
        """


class ModuleRunner:
    """The managed host, by the means of a module. limit: seconds that a tool may take."""

    def __init__(self, module: AnsibleModule, limit: float = LIMIT) -> None:
        self._module = module
        self._limit = limit

    def find(self, tool: str) -> str | None:
        """As `Runner.find`; AnsibleModule looks in the directories for root's tools, too, if PATH lacks them."""
        path: str | None = self._module.get_bin_path(tool)
        return path

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """As `Runner.run`. Not by AnsibleModule.run_command, which ends the module, with its own words and without
        undoing anything, when a tool that refuses its input closes it early.
        """
        return run_tool(argv, stdin, self._limit)


def run_tool(argv: Sequence[str], stdin: str = "", limit: float = LIMIT) -> tuple[int, str, str]:
    """As `Runner.run`. limit: seconds."""
    name = os.path.basename(argv[0])
    try:
        process = subprocess.Popen(
            argv,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return NOT_STARTED, "", f"{name} cannot be started: {error.strerror}"
    stream, process.stdin = process.stdin, None
    Thread(target=_feed, args=(stream, stdin.encode("utf-8", "surrogateescape")), daemon=True).start()
    try:
        output = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        return TIMED_OUT, "", f"{name} did not end in {limit:g} seconds and was killed"
    except BaseException:
        _kill(process)
        raise
    stdout, stderr = (text.decode("utf-8", "surrogateescape") for text in output)
    return process.returncode, printable_lines(stdout) if process.returncode else stdout, printable_lines(stderr)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a tool and what it has started, which is in its session."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_UNTIL_KILLED)


def _feed(stream: IO[bytes] | None, text: bytes) -> None:
    """Write in one call of the system, without Python: `Popen.communicate` takes thousands, each of which waits for other threads."""
    if stream:
        with suppress(BrokenPipeError), stream:
            stream.write(text)
