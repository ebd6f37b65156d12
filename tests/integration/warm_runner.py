# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules and playbooks run by a process that has imported them already: starting Python takes longer than most modules, and
seconds in emulated machines; ansible-core's own imports take longer than most plays.

Each run is a process of its own, forked from one that has imported ansible-core and has run nothing. Used where ``L4_WARM`` is set:
by the stages, and inside of emulated machines.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_SERVE = r"""
import atexit, json, os, sys, traceback

def serve(work):
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(work, json.loads(line))
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)

def run(work, order):
    os.setsid()
    atexit._clear()
    code = 1
    try:
        for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, order["stdout"], os.O_WRONLY), (2, order["stderr"], os.O_WRONLY)):
            os.dup2(os.open(path, how | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(order["environment"])
        work(order)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""
_MODULES = (
    _SERVE
    + r"""
import ctypes, importlib, runpy
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
    enter(order["namespace"])
    with patch_module_args(order["arguments"]):
        runpy.run_module(order["module"], init_globals={"_module_fqn": order["module"], "_modlib_path": library}, run_name="__main__", alter_sys=True)

serve(work)
"""
)
_PLAYBOOKS = (
    _SERVE
    + r"""
import importlib
import ansible.constants
from ansible.cli.playbook import PlaybookCLI

def work(order):
    os.chdir(order["directory"])
    importlib.reload(ansible.constants)  # settings are those of this run's environment and directory
    sys.argv = ["ansible-playbook", *order["arguments"]]
    PlaybookCLI.cli_executor(sys.argv)

serve(work)
"""
)


class _Server:
    """A process that forks for each order. One at a time; more wait."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            bufsize=0,  # select(2) does not see what Python has read ahead
        )
        atexit.register(self._process.kill)

    def run(
        self, name: str, order: Mapping[str, Any], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """What was printed. Raises subprocess.TimeoutExpired, with all that was started killed."""
        with self._lock, tempfile.TemporaryDirectory(prefix="l4-warm-") as directory:
            files = {stream: str(Path(directory, stream)) for stream in ("stdout", "stderr")}
            child, status = self._done({**order, **files, "environment": dict(environment)}, timeout)
            printed = [Path(path).read_text() if Path(path).exists() else "" for path in files.values()]
        if status is None:
            raise subprocess.TimeoutExpired([name, str(child)], timeout)
        return subprocess.CompletedProcess([name], os.waitstatus_to_exitcode(status), *printed)

    def _done(self, order: Mapping[str, Any], timeout: float) -> tuple[int, int | None]:
        """The process that ran, and its status; None if it had to be killed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        child = int(self._process.stdout.readline())
        in_time = bool(select.select([self._process.stdout], [], [], timeout)[0])
        if not in_time:
            os.killpg(child, signal.SIGKILL)
        status = int(self._process.stdout.readline())
        return child, status if in_time else None


class WarmRunner:
    """names: modules by their full names, to be imported once."""

    def __init__(self, interpreter: str, library: str, names: list[str], environment: Mapping[str, str]) -> None:
        self._server = _Server([interpreter, "-c", _MODULES, library, *names], environment)

    def run(
        self, namespace: str, module: str, arguments: Mapping[str, Any], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """What the module printed. Raises subprocess.TimeoutExpired, with the module killed."""
        order = {"namespace": namespace, "module": module, "arguments": arguments}
        return self._server.run(module, order, environment, timeout)


def run_ansible_playbook(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What ansible-playbook does and prints in this directory. Raises subprocess.TimeoutExpired, with all that it started killed."""
    if "L4_WARM" in os.environ:
        order = {"directory": str(directory), "arguments": list(arguments)}
        return _playbooks().run("ansible-playbook", order, environment, timeout)
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@cache
def _playbooks() -> _Server:
    return _Server([sys.executable, "-c", _PLAYBOOKS], os.environ)
