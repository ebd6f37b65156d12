# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules with long arguments by way of pipelining.

Python reads a program from standard input byte by byte, with a system call for each: half a second for 600 KB, on every
node. With pipelining Ansible sends modules that way, their arguments included.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase

_READ_AT_ONCE = "import sys; exec(sys.stdin.buffer.read())"


class PipelinedAction(ActionBase):
    """Has Python read a module that comes by standard input in one piece."""

    def _low_level_execute_command(self, cmd: str, *further: Any, in_data: bytes | None = None, **options: Any) -> Any:
        if cmd and in_data:
            cmd = f"{cmd} -c {shlex.quote(_READ_AT_ONCE)}"
        return super()._low_level_execute_command(cmd, *further, in_data=in_data, **options)
