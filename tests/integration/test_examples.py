# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation's examples do what a reader expects of them: they run, as predicted, and once is enough."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import (
    COLLECTION,
    ELSEWHERE,
    TARGET,
    WEB,
    Block,
    ansible_playbook,
    examples,
    host_variables,
    is_inventory,
    is_plays,
    is_tasks,
    markdown_blocks,
    modules,
    plugins,
    proving_tasks,
    run_tasks,
)

from lab.hosts import Host

BLOCKS = list(markdown_blocks())
# Those for hosts; what runs on the controller alone is in the tests of the filters.
PLAYBOOKS = [block for block in BLOCKS if is_plays(block.content) and "connection: local" not in block.text]


@pytest.fixture
def host() -> Iterator[Host]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Host(f"l4doc{os.getpid()}{worker}") as made:
        yield made


@pytest.mark.parametrize("module", [module for module in modules() if module not in ELSEWHERE])
def test_examples_of_modules_run_as_predicted_and_change_nothing_again(host: Host, tmp_path: Path, module: str) -> None:
    documented = examples("modules", module)
    assert is_tasks(documented)
    run_tasks(tmp_path, host, proving_tasks(documented))


@pytest.mark.parametrize("name", plugins("filter"))
def test_examples_of_filters_run(host: Host, tmp_path: Path, name: str) -> None:
    run_tasks(tmp_path, host, examples("filter", name), web=WEB)


@pytest.mark.parametrize("block", BLOCKS, ids=map(str, BLOCKS))
def test_yaml_in_the_documentation_is_what_ansible_reads(tmp_path: Path, block: Block) -> None:
    check_syntax(tmp_path, block.content)
    unknown = {name for name in names(block.content) if name.startswith("service_proxy_")} - role_options()
    assert not unknown, f"no role has the options {sorted(unknown)}"


@pytest.mark.parametrize("block", PLAYBOOKS, ids=map(str, PLAYBOOKS))
def test_playbooks_in_the_documentation_run_and_change_nothing_again(host: Host, tmp_path: Path, block: Block) -> None:
    """On one host with a bridge, which is every host that the playbook names."""
    host.add_bridge("br0", addresses=["10.0.1.1/24"])
    patterns = {play.get("hosts", "all") for play in block.content}
    machine = {TARGET: host_variables(host)}
    groups = {name: {"hosts": machine} for name in patterns - {"all"}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": machine, "children": groups}}))
    (tmp_path / "playbook.yml").write_text(block.text)
    ansible_playbook(tmp_path, "-i", "inventory.yml", "playbook.yml")
    again = ansible_playbook(tmp_path, "-i", "inventory.yml", "playbook.yml")
    assert "changed=0 " in again, again


def check_syntax(directory: Path, content: Any) -> None:
    """Let Ansible parse plays, tasks or an inventory; variables alone are only YAML."""
    if is_inventory(content):
        check_inventory(directory, content)
    elif is_plays(content):
        check_plays(directory, content)
    elif is_tasks(content):
        check_plays(directory, [{"name": "Documented", "hosts": TARGET, "tasks": content}])


def check_plays(directory: Path, plays: Any) -> None:
    (directory / "playbook.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    ansible_playbook(directory, "--syntax-check", "-i", f"{TARGET},", "playbook.yml")


def check_inventory(directory: Path, inventory: Any) -> None:
    path = directory / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))
    command = [sys.executable, "-m", "ansible", "inventory", "-i", str(path), "--list"]
    environment = {
        **os.environ,
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def names(content: Any) -> Iterator[str]:
    """Every key, however deep, as far as Ansible does not take what stands below for a group of hosts."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from () if is_inventory({key: value}) else (key,)
            yield from names(value)
    elif isinstance(content, list):
        for item in content:
            yield from names(item)


def role_options() -> set[str]:
    specifications = [yaml.safe_load(path.read_text()) for path in COLLECTION.glob("roles/*/meta/argument_specs.yml")]
    return {
        option
        for specification in specifications
        for entry in specification["argument_specs"].values()
        for option in entry["options"]
    }
