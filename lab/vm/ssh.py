# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SSH into a machine, by the image's own keys; nothing of the user's configuration is read or written."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .image import HOST_ALIAS, KEY, KNOWN_HOSTS, Image

HOST = "127.0.0.1"
BANNER_SECONDS = 8.0


@dataclass(frozen=True)
class Ssh:
    """The way into a machine, as root, on a port of this machine."""

    image: Image
    port: int

    def options(self) -> list[str]:
        return [
            *("-F", "none", "-o", f"IdentityFile={self.image / KEY}", "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={self.image / KNOWN_HOSTS}", "-o", f"HostKeyAlias={HOST_ALIAS}"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
        ]

    def command(self, *argv: str, options: tuple[str, ...] = ()) -> list[str]:
        """To run a command in there, or a shell; its standard input, output and exit status are the remote ones."""
        remote = [shlex.join(argv)] if argv else []
        return ["ssh", *self.options(), *options, "-p", str(self.port), f"root@{HOST}", *remote]

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60.0, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, with its output captured."""
        if "input" not in how:
            how["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.command(*argv), check=check, timeout=timeout, capture_output=True, text=True, **how)

    def inventory(self) -> Mapping[str, Any]:
        """Host variables with which Ansible comes in."""
        return {
            "ansible_connection": "ssh",
            "ansible_host": HOST,
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_common_args": shlex.join(self.options()),
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def answers(self) -> bool:
        """Whether a server of SSH says its name; the emulator accepts connections long before there is one."""
        try:
            with socket.create_connection((HOST, self.port), BANNER_SECONDS) as stream:
                return stream.recv(4) == b"SSH-"
        except OSError:
            return False

    def wait(self, seconds: float) -> None:
        """Return when it answers; TimeoutError after so many seconds."""
        give_up = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > give_up:
                raise TimeoutError(f"no SSH after {seconds:.0f} s")
            time.sleep(0.05)
