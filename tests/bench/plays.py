# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Playbooks as a user runs them, timed. Their hosts are namespaces of this machine, so that controller and nodes share its processors."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lab.hosts import Host
from module_runner import COLLECTION, MANAGED_HOST_PYTHON

SITE = COLLECTION / "playbooks" / "site.yml"
GROUP = "service_proxy"
_TASK = re.compile(r"^(\S.*?) -{2,} +([\d.]+)s$", re.MULTILINE)
_LONGEST = 1800.0


class Played(NamedTuple):
    """Seconds of a run, seconds of processors that it and its hosts' modules took, and of the tasks that took longest."""

    seconds: float
    processors: float
    tasks: Sequence[tuple[str, float]]


class Controller:
    """An inventory with these hosts, in a directory of its own."""

    def __init__(self, directory: Path, hosts: Sequence[Host], variables: Mapping[str, Any], forks: int = 5) -> None:
        self._directory, self._forks = directory, forks
        collections = directory / "ansible_collections" / "layer4"
        collections.mkdir(parents=True)
        (collections / "service_proxy").symlink_to(COLLECTION)
        connection = {
            "ansible_connection": "layer4.service_proxy.netns",
            "ansible_python_interpreter": MANAGED_HOST_PYTHON,
        }
        where = {host.name: {"ansible_netns_name": host.name, "ansible_netns_view": str(host.view)} for host in hosts}
        (directory / "hosts.yml").write_text(yaml.safe_dump({GROUP: {"hosts": where, "vars": connection}}))
        (directory / "group_vars").mkdir()
        self.set(variables)

    def set(self, variables: Mapping[str, Any]) -> None:
        """The group's variables."""
        (self._directory / "group_vars" / (GROUP + ".yml")).write_text(json.dumps(variables))

    def play(self, *tasks: Mapping[str, Any]) -> Path:
        """A playbook with these tasks."""
        path = self._directory / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": GROUP, "gather_facts": False, "tasks": list(tasks)}]))
        return path

    def run(self, playbook: Path) -> Played:
        """Raises RuntimeError with what it said when it fails."""
        command = [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "-i",
            "hosts.yml",
            "-f",
            str(self._forks),
            str(playbook),
        ]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-4000:] + done.stderr[-2000:])
        processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        tasks = [(name, float(taken)) for name, taken in _TASK.findall(done.stdout)]
        return Played(seconds, processors, tasks)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join([str(self._directory), *_others()]),
            "ANSIBLE_HOME": str(self._directory / "home"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
            "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "8",
        }


def _others() -> list[str]:
    """Where ansible.posix is, of which nothing else is needed than what the `ansible` package brings."""
    return [path for path in sys.path if Path(path, "ansible_collections", "ansible").is_dir()]


@contextmanager
def controller(hosts: int, variables: Mapping[str, Any], forks: int = 5) -> Iterator[Controller]:
    """So many hosts, and a controller that knows them."""
    made = [Host(f"l4bench{os.getpid()}-{number}") for number in range(hosts)]
    with tempfile.TemporaryDirectory(prefix="l4bench-") as directory:
        try:
            for host in made:
                host.create()
            yield Controller(Path(directory), made, variables, forks)
        finally:
            for host in made:
                host.delete()
