# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a module with long arguments comes to Python by pipelining: a real shell and a real Python in place of a connection."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
from ansible.plugins.action import ActionBase

from ansible_collections.layer4.service_proxy.plugins.plugin_utils._pipelining import PipelinedAction

MODULE = """\
#!/usr/bin/python
# -*- coding: utf-8 -*-
from __future__ import annotations

import os, sys

def counted(text: str = "\u00e4'\\"$HOME") -> list[Unknown]:
    counts = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return [text, int(counts["syscr"]), os.environ.get("LANGUAGE"), sys.stdin.read(), __name__]

if __name__ == "__main__":
    print(counted())
"""


class Here(PipelinedAction):
    """An action whose host is this machine."""

    def __init__(self) -> None:
        """Ansible's own asks for much that no command needs."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        raise NotImplementedError


def _execute(dummy: ActionBase, cmd: str, sudoable: bool = True, in_data: bytes | None = None, **options: Any) -> str:
    assert not options
    command = ["/bin/sh", "-c", f"/bin/sh -c {shlex.quote(cmd)}" if sudoable else cmd]  # become quotes once more
    return subprocess.run(command, input=in_data, capture_output=True, check=True).stdout.decode().strip()


@pytest.mark.parametrize("sudoable", [False, True])
def test_python_reads_a_long_module_at_once(monkeypatch: pytest.MonkeyPatch, sudoable: bool) -> None:
    monkeypatch.setattr(ActionBase, "_low_level_execute_command", _execute)
    module = f"{MODULE}\n{'#' * 100_000}\n".encode()
    said = Here()._low_level_execute_command(f"LANGUAGE=de {sys.executable}", sudoable=sudoable, in_data=module)
    text, reads, *others = eval(said)
    assert (text, others) == ("\u00e4'\"$HOME", ["de", "", "__main__"])
    assert reads < 5000


def test_a_command_without_a_module_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "_low_level_execute_command", _execute)
    assert Here()._low_level_execute_command("echo as it is", sudoable=False) == "as it is"
