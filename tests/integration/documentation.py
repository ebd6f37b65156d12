# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading the documentation's examples, and running them with ansible-playbook on a host made for it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from warm_runner import run_ansible_playbook

from lab.hosts import Host
from module_runner import MANAGED_HOST_PYTHON

COLLECTION = Path(__file__).resolve().parents[2]
COLLECTION_NAME = "layer4.service_proxy"
TARGET = "documented"
# Modules whose examples need a kernel with IPVS: tests/virtual runs them.
ELSEWHERE = ("ipvs_service",)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PREDICTION_HOLDS = [
    "predicted is changed == done is changed",
    "predicted.diff | default([]) == done.diff | default([])",
]

# The hosts that the examples of filters speak of.
WEB = {
    "hosts": {
        "web1": {
            "ansible_host": "10.0.0.11",
            "web_address": "10.0.0.11",
            "web_address6": "fd00:10::11",
            "web_port": 8080,
            "web_weight": 3,
            "maintenance": False,
            "hypervisor": "node1",
        },
        "web2": {
            "ansible_host": "10.0.0.21",
            "web_address": "10.0.0.21",
            "web_address6": "fd00:10::21",
            "web_port": 8080,
            "maintenance": True,
            "hypervisor": "node2",
        },
    }
}


@dataclass(frozen=True)
class Block:
    """A fenced block of YAML in a Markdown file."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(COLLECTION)}:{self.line}"

    @property
    def content(self) -> Any:
        return yaml.safe_load(self.text)


def modules() -> list[str]:
    return sorted(path.stem for path in (COLLECTION / "plugins" / "modules").glob("[a-z]*.py"))


def plugins(kind: str) -> list[str]:
    return sorted(path.stem for path in (COLLECTION / "plugins" / kind).glob("[a-z]*.py"))


def examples(kind: str, name: str) -> Any:
    """What a plugin's EXAMPLES say, parsed; `kind` is a directory of plugins."""
    tree = ast.parse((COLLECTION / "plugins" / kind / f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["EXAMPLES"]:
            return yaml.safe_load(ast.literal_eval(node.value))
    raise LookupError(f"plugins/{kind}/{name}.py has no EXAMPLES")


def markdown_blocks() -> Iterator[Block]:
    """Every block of YAML in the READMEs and the documentation."""
    for path in [
        COLLECTION / "README.md",
        *sorted(COLLECTION.glob("docs/*.md")),
        *sorted(COLLECTION.glob("roles/*/*.md")),
    ]:
        text = path.read_text()
        for fence in FENCE.finditer(text):
            if fence[1] in ("yaml", "yml"):
                yield Block(path, text.count("\n", 0, fence.start()) + 1, fence[2])


def is_plays(content: Any) -> bool:
    return isinstance(content, list) and all(
        {"hosts", "import_playbook", "ansible.builtin.import_playbook"} & set(item) for item in content
    )


def is_tasks(content: Any) -> bool:
    return isinstance(content, list) and not is_plays(content) and all(isinstance(item, dict) for item in content)


def is_inventory(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(group, dict) and {"hosts", "children", "vars"} >= set(group) for group in content.values()
    )


def proving_tasks(tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each task three times: a dry run, the run itself with the same result and diff, and a run that changes nothing."""
    return [step for task in tasks for step in _proof(task)]


def _proof(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name = task.get("name", "unnamed")
    yield {**task, "name": f"{name} (predicted)", "check_mode": True, "diff": True, "register": "predicted"}
    yield {**task, "diff": True, "register": "done"}
    if "register" in task:
        yield {"name": f"{name} (registered)", "ansible.builtin.set_fact": {task["register"]: "{{ done }}"}}
    yield {"name": f"{name} (as predicted)", "ansible.builtin.assert": {"that": PREDICTION_HOLDS}}
    unchanged = {"register": "again", "failed_when": "again is failed or again is changed"}
    yield {**task, "name": f"{name} (again)", "diff": True, **unchanged}


def run_tasks(
    directory: Path, host: Host, tasks: Sequence[dict[str, Any]], collections: str | None = None, **inventory: Any
) -> str:
    """Run tasks on a host by ansible-playbook and return its output; a failure is an AssertionError that shows it.

    collections: search path, by default the environment's. inventory: further groups, in the form of a YAML inventory.
    """
    play = {"name": "Examples", "hosts": TARGET, "gather_facts": False, "tasks": list(tasks)}
    (directory / "playbook.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    (directory / "inventory.yml").write_text(
        yaml.safe_dump({"all": {"hosts": {TARGET: host_variables(host)}, "children": inventory}})
    )
    return ansible_playbook(directory, "-i", "inventory.yml", "playbook.yml", collections=collections)


def host_variables(host: Host) -> dict[str, str]:
    """How Ansible reaches a host of the lab; its Python is the machine's, not the controller's environment."""
    return {
        "ansible_connection": f"{COLLECTION_NAME}.netns",
        "ansible_netns_name": host.name,
        "ansible_netns_view": str(host.view),
        "ansible_python_interpreter": MANAGED_HOST_PYTHON,
    }


def ansible_playbook(directory: Path, *arguments: str, collections: str | None = None) -> str:
    path = {"ANSIBLE_COLLECTIONS_PATH": collections} if collections else {}
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0", **path}
    done = run_ansible_playbook(arguments, directory, environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
