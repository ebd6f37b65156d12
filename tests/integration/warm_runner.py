# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules run by a process that has imported them already: starting Python takes longer than most modules, and seconds in
emulated machines.

Each run is a process of its own, forked from one that has imported ansible-core's ``module_utils`` and this collection and has
run nothing. Used where ``L4_WARM_MODULES`` is set: by the stages, and inside of emulated machines.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SERVER = r"""
import ctypes, importlib, json, os, runpy, sys, traceback
from ansible.module_utils.testing import patch_module_args
library, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
libc = ctypes.CDLL(None, use_errno=True)
NET, MOUNT, SLAVE, RECURSIVE, DETACH = 0x40000000, 0x20000, 1 << 19, 1 << 14, 2

def enter(namespace):
    # As `ip netns exec` does it, with a view of /sys that belongs to the namespace.
    with open("/run/netns/" + namespace) as it:
        failed = libc.setns(it.fileno(), NET)
    failed = failed or libc.unshare(MOUNT) or libc.mount(b"", b"/", b"none", SLAVE | RECURSIVE, None)
    libc.umount2(b"/sys", DETACH)
    if failed or libc.mount(namespace.encode(), b"/sys", b"sysfs", 0, None):
        raise OSError(ctypes.get_errno(), "entering " + namespace)

def work(order):
    for number, path in ((1, order["stdout"]), (2, order["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(order["environment"])
    enter(order["namespace"])
    with patch_module_args(order["arguments"]):
        runpy.run_module(order["module"], init_globals={"_module_fqn": order["module"], "_modlib_path": library}, run_name="__main__", alter_sys=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(json.loads(line))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class WarmRunner:
    """names: modules by their full names, to be imported once. One run at a time; more wait."""

    def __init__(self, interpreter: str, library: str, names: list[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._server = subprocess.Popen(
            [interpreter, "-c", _SERVER, library, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            bufsize=0,  # select(2) does not see what Python has read ahead
        )
        atexit.register(self._server.kill)

    def run(
        self, namespace: str, module: str, arguments: Mapping[str, Any], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """What the module printed. Raises subprocess.TimeoutExpired, with the module killed."""
        with self._lock, tempfile.TemporaryDirectory(prefix="l4-warm-") as directory:
            files = {stream: str(Path(directory, stream)) for stream in ("stdout", "stderr")}
            order = {"namespace": namespace, "module": module, "arguments": arguments, **files}
            child, status = self._done({**order, "environment": dict(environment)}, timeout)
            printed = [Path(path).read_text() if Path(path).exists() else "" for path in files.values()]
        if status is None:
            raise subprocess.TimeoutExpired([module, str(child)], timeout)
        return subprocess.CompletedProcess([module], os.waitstatus_to_exitcode(status), *printed)

    def _done(self, order: Mapping[str, Any], timeout: float) -> tuple[int, int | None]:
        """The process that ran, and its status; None if it had to be killed."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        child = int(self._server.stdout.readline())
        in_time = bool(select.select([self._server.stdout], [], [], timeout)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        status = int(self._server.stdout.readline())
        return child, status if in_time else None
