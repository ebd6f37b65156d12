# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run playbooks of the collection on hosts of the lab, and look at what their tasks said."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from warm_runner import run_ansible_playbook

from lab.hosts import Host
from module_runner import COLLECTION

SITE = COLLECTION / "playbooks" / "site.yml"
MANAGED_HOST_PYTHON = "/usr/bin/python3"


class PlaybookFailed(AssertionError):
    """A playbook that was expected to succeed did not; the text is its output."""


@dataclass
class Run:
    """What a run of a playbook came to."""

    returncode: int
    results: list[tuple[str, str, dict[str, Any]]]
    stats: dict[str, dict[str, int]]
    output: str

    @property
    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        return sum(host["changed"] for host in self.stats.values())

    @property
    def changes(self) -> list[tuple[str, str, Any]]:
        """Every change: task, host, and its diff, if the task gives one."""
        return [
            (task, host, _without_paths(item.get("diff")))
            for task, host, result in self.results
            for item in result.get("results", [result])
            if item.get("changed")
        ]

    @property
    def message(self) -> str:
        """What the failed tasks said."""
        results = [item for _task, _host, result in self.results for item in result.get("results", [result])]
        return "\n".join(str(result.get("msg")) for result in results if result.get("failed"))


def _without_paths(diff: Any) -> Any:
    """The diff without the names of the controller's temporary files."""
    if isinstance(diff, list):
        return [_without_paths(part) for part in diff]
    if isinstance(diff, dict):
        return {key: value for key, value in diff.items() if not key.endswith("_header")}
    return diff


class Controller:
    """A directory with an inventory, from which playbooks are run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        collections = directory / "ansible_collections" / "layer4"
        collections.mkdir(parents=True)
        (collections / "service_proxy").symlink_to(COLLECTION)

    def inventory(self, hosts: Mapping[str, Host], variables: Mapping[str, Any]) -> None:
        """All hosts in group service_proxy, with the group's variables."""
        group = {
            "hosts": {
                name: {"ansible_netns_name": host.name, "ansible_netns_view": str(host.view)}
                for name, host in hosts.items()
            },
            "vars": {
                "ansible_connection": "layer4.service_proxy.netns",
                "ansible_python_interpreter": MANAGED_HOST_PYTHON,
                **variables,
            },
        }
        (self.directory / "hosts.yml").write_text(yaml.safe_dump({"service_proxy": group}))

    def play(self, tasks: Sequence[Mapping[str, Any]], **play: Any) -> Path:
        """A playbook of someone else with these tasks."""
        path = self.directory / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": list(tasks), **play}]))
        return path

    def run(self, playbook: Path = SITE, check: bool = False, expect_failure: bool = False, **variables: Any) -> Run:
        """Run with diffs. Raises PlaybookFailed when it fails, or with `expect_failure` when it does not."""
        return self.judged(self.run_anyhow(playbook, check, **variables), expect_failure)

    def judged(self, done: subprocess.CompletedProcess[str], expect_failure: bool = False) -> Run:
        """What a run came to, as of `run`."""
        run = _parse(done)
        if (run.returncode != 0) != expect_failure:
            raise PlaybookFailed(f"{run.message}\n{run.output}")
        return run

    def run_anyhow(
        self, playbook: Path = SITE, check: bool = False, *options: str, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run with diffs, whatever comes of it; it may fail before there is any task."""
        arguments = ["-i", "hosts.yml", "--diff", str(playbook), *["--check"] * check]
        arguments += ["--extra-vars", json.dumps(variables), *options]
        return run_ansible_playbook(arguments, self.directory, self._environment(), timeout=300)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory),
            "ANSIBLE_HOME": str(self.directory / "home"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }


def _parse(done: subprocess.CompletedProcess[str]) -> Run:
    start = done.stdout.find("{")
    try:
        report = json.loads(done.stdout[start:])
    except ValueError:
        raise PlaybookFailed(done.stdout + done.stderr) from None
    results = [
        (task["task"]["name"], host, result)
        for play in report["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
    ]
    return Run(done.returncode, results, report["stats"], done.stdout + done.stderr)
