# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a module of the collection in a network namespace, without a playbook around it.

The module file is executed as Ansible executes it (its own process, its arguments as JSON, its result from
standard output), only without connection, templating and temporary files: a tenth of a task's time. The
interpreter sees ansible-core's ``module_utils`` and this collection and nothing else of the test's environment,
which is what a managed host offers.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ansible
from warm_runner import WarmRunner

COLLECTION = Path(__file__).resolve().parents[2]
MANAGED_HOST_PYTHON = "/usr/bin/python3"

_BOOTSTRAP = """
import json, runpy, sys
from ansible.module_utils.testing import patch_module_args
name, library = sys.argv[1:]
with patch_module_args(json.load(sys.stdin)):
    runpy.run_module(name, init_globals={"_module_fqn": name, "_modlib_path": library}, run_name="__main__", alter_sys=True)
"""

LEGACY_TOOLS = tuple(family + tool for family in ("iptables", "ip6tables") for tool in ("", "-save", "-restore"))


class ModuleCrash(AssertionError):
    """The module ended without a result in JSON: a traceback, or nothing at all."""


@cache
def library_path() -> str:
    """A directory that holds links to ansible-core and to this collection only, removed when the tests end."""
    directory = tempfile.mkdtemp(prefix="l4-modules-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    namespace = Path(directory, "ansible_collections", "layer4")
    namespace.mkdir(parents=True)
    namespace.joinpath("service_proxy").symlink_to(COLLECTION)
    Path(directory, "ansible").symlink_to(Path(ansible.__file__).parent)
    return directory


@cache
def legacy_path() -> str:
    """A directory in which ``iptables`` and its companions are those of the legacy variant, for `path_prefix`."""
    directory = tempfile.mkdtemp(prefix="l4-legacy-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    multi = shutil.which("xtables-legacy-multi", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if multi is None:
        raise FileNotFoundError("xtables-legacy-multi is not installed")
    for name in LEGACY_TOOLS:
        Path(directory, name).symlink_to(multi)
    return directory


def run_module(
    namespace: str | Any,
    module: str,
    arguments: Mapping[str, Any],
    check: bool = False,
    path_prefix: str | None = None,
    interpreter: str = MANAGED_HOST_PYTHON,
    timeout: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``layer4.service_proxy.<module>``, or one by its Python name, inside a network namespace and return its result.

    namespace: a name, or an object with a `name`. path_prefix: directory put before PATH, see `legacy_path`.
    interpreter: Python of the managed host; a module that needs pyroute2 gets one that has it. The result of a
    module that failed carries ``failed: true`` and is returned too. Diff mode is always on.
    """
    name = module if "." in module else "ansible_collections.layer4.service_proxy.plugins.modules." + module
    host = namespace if isinstance(namespace, str) else namespace.name
    options = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": tempfile.gettempdir()}
    if "L4_WARM" in os.environ and interpreter == MANAGED_HOST_PYTHON:
        return _result(_warm().run(host, name, {**arguments, **options}, _environment(path_prefix), timeout))
    argv: list[str] = ["ip", "netns", "exec", host, interpreter, "-c", _BOOTSTRAP, name, library_path()]
    done = subprocess.run(
        argv,
        input=json.dumps({**arguments, **options}),
        env={**_environment(path_prefix), **(environment or {})},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return _result(done)


@cache
def _warm() -> WarmRunner:
    package = "ansible_collections.layer4.service_proxy.plugins.modules."
    names = [package + path.stem for path in sorted(COLLECTION.joinpath("plugins/modules").glob("[!_]*.py"))]
    return WarmRunner(MANAGED_HOST_PYTHON, library_path(), names, _environment(None))


def run_module_ok(namespace: str | Any, module: str, arguments: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    """The same, for a module that is expected to succeed."""
    result = run_module(namespace, module, arguments, **how)
    assert not result.get("failed"), result.get("msg", result)
    return result


def _environment(path_prefix: str | None) -> dict[str, str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return {
        "PATH": path_prefix + ":" + path if path_prefix else path,
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": library_path(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        result = json.loads(done.stdout)
    except ValueError:
        raise ModuleCrash(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}") from None
    if not isinstance(result, dict):
        raise ModuleCrash(done.stdout)
    return result
