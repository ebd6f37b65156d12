# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts that are network namespaces of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: netns
short_description: Run tasks in a network namespace of the controller
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - An inventory host is a network namespace on the controller, made with C(ip netns add) before the play starts.
  - This is P(ansible.builtin.local#connection) with every command started inside the namespace, so that modules,
    facts and become work as they do on a machine, on this namespace's links, addresses, routes and packet filter.
  - Files are the controller's own, unless O(view) gives the host a view of its own.
options:
  netns:
    description:
      - Name of the network namespace, as C(ip netns list) shows it.
      - Without it the name is C(ansible_host), or else the host's inventory name.
    type: str
    vars:
      - name: ansible_host
      - name: ansible_netns_name
  view:
    description:
      - Directory that holds two further namespaces of this host, saved with C(unshare --mount=DIR/mnt --uts=DIR/uts).
        The file C(mnt) is its mount namespace (what it sees as C(/etc), C(/run), C(/sys), and what it writes there),
        C(uts) is its host name.
      - Without it commands run under C(ip netns exec), which gives them a C(/sys) of the namespace and the files of
        C(/etc/netns/NAME), and all other files are shared with the controller.
    type: path
    vars:
      - name: ansible_netns_view
  become_success_timeout:
    description:
      - Seconds to wait for become to succeed.
      - A value below V(1) means the default.
    type: int
    default: 10
    vars:
      - name: ansible_netns_become_success_timeout
  become_strip_preamble:
    description:
      - Strip what become itself prints before the command's output. Disable for diagnostics.
    type: bool
    default: true
    vars:
      - name: ansible_netns_become_strip_preamble
extends_documentation_fragment:
  - ansible.builtin.connection_pipelining
notes:
  - The controller must be Linux with iproute2 and util-linux, and the play must run as root there.
  - The remote user is ignored, as it is by P(ansible.builtin.local#connection).
"""

import os
import pwd
import shlex
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.plugins.connection.local import Connection as LocalConnection

NETNS_DIRECTORY = Path("/run/netns")


class Connection(LocalConnection):
    """The local connection, inside a network namespace."""

    transport = "layer4.service_proxy.netns"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a shell command inside; its exit code, output and error output."""
        inside = shlex.join([*self._entrance(), "/bin/sh", "-c", cmd])
        result: tuple[int, bytes, bytes] = super().exec_command(inside, in_data=in_data, sudoable=sudoable)
        return result

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the controller to where the host sees `out_path`."""
        if not os.path.exists(in_path):
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}")
        with open(in_path, "rb") as source:
            self._transfer(["/bin/sh", "-c", 'cat > "$1"', "sh", out_path], stdin=source)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy what the host sees as `in_path` to a file of the controller."""
        with open(out_path, "wb") as target:
            self._transfer(["cat", "--", in_path], stdin=subprocess.DEVNULL, stdout=target)

    def _transfer(self, argv: list[str], **streams: Any) -> None:
        copied = subprocess.run([*self._entrance(), *argv], stderr=subprocess.PIPE, check=False, **streams)
        if copied.returncode != 0:
            raise AnsibleError(f"Failed to transfer a file: {copied.stderr.decode(errors='replace').strip()}")

    def _entrance(self) -> list[str]:
        """The command line that starts another one inside; AnsibleConnectionFailure says what is not there."""
        name: str = self.get_option("netns") or self._play_context.remote_addr
        view: str | None = self.get_option("view")
        if os.geteuid() != 0:
            raise AnsibleConnectionFailure("Entering a network namespace takes root on the controller.")
        network = self._present(NETNS_DIRECTORY / name, f"There is no network namespace {name!r} on the controller")
        if view is None:
            return ["ip", "netns", "exec", name]
        saved = f"The view of network namespace {name!r} is not complete"
        mount = self._present(Path(view, "mnt"), saved)
        uts = self._present(Path(view, "uts"), saved)
        home = pwd.getpwuid(os.geteuid()).pw_dir
        return ["nsenter", f"--net={network}", f"--mount={mount}", f"--uts={uts}", "--", "env", f"HOME={home}"]

    def _present(self, path: Path, complaint: str) -> Path:
        if not path.exists():
            raise AnsibleConnectionFailure(f"{complaint} (no {path}).")
        return path
