# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tools: what they read and write, and that one that hangs does not keep a run for ever."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.process import (
    NOT_STARTED,
    TIMED_OUT,
    run_tool,
)

_LARGE = "x" * (1 << 20)


def test_a_tool_reads_and_writes_more_than_a_pipe_holds() -> None:
    assert run_tool(["cat"], _LARGE) == (0, _LARGE, "")


def test_a_tool_may_leave_its_input_unread() -> None:
    assert run_tool(["sh", "-c", "exec 0<&-; echo refused >&2; exit 3"], _LARGE) == (3, "", "refused\n")


def _leads_to(link: Path, path: Path) -> bool:
    """Whether a process that may end meanwhile, or be somebody else's, has it open."""
    try:
        return os.readlink(link) == str(path)
    except OSError:
        return False


def test_a_tool_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = f"exec 3<> {fifo}; read line <&3"
    code, stdout, stderr = run_tool(["sh", "-c", f"({child}) & wait"], _LARGE, limit=0.5)
    assert (code, stdout) == (TIMED_OUT, "")
    assert stderr == "sh did not end in 0.5 seconds and was killed"
    alive = [path for path in Path("/proc").glob("[0-9]*/fd/3") if _leads_to(path, fifo)]
    assert not alive


def test_a_tool_that_cannot_be_started_is_one_that_failed(tmp_path: Path) -> None:
    assert run_tool([str(tmp_path / "no tool")]) == (
        NOT_STARTED,
        "",
        "no tool cannot be started: No such file or directory",
    )


def test_messages_are_in_english_and_bytes_are_kept() -> None:
    assert run_tool(["sh", "-c", 'echo "$LC_ALL$LANGUAGE"; cat'], "\udcff") == (0, "CC\n\udcff", "")


def test_what_a_tool_says_cannot_write_to_a_terminal() -> None:
    script = r"printf 'one\033]0;title\007\r\n\ttwo \302\233m \377'"
    escaped = r"one\u001b]0;title\u0007\r" + "\n" + r" two \u009bm \udcff"
    assert run_tool(["sh", "-c", f"{script}; {script} >&2; exit 1"]) == (1, escaped, escaped)
    code, stdout, stderr = run_tool(["sh", "-c", f"{script}; {script} >&2"])
    assert (code, stdout, stderr) == (0, "one\x1b]0;title\x07\r\n\ttwo \x9bm \udcff", escaped)
