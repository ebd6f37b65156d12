# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The built archive, installed on its own: what it holds, and that everything in it works from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from documentation import (
    COLLECTION,
    COLLECTION_NAME,
    ELSEWHERE,
    TARGET,
    WEB,
    ansible_playbook,
    examples,
    host_variables,
    modules,
    plugins,
    run_tasks,
)
from repetition import repetition

from lab.hosts import Host

# Of the project's files, what is for its developers. Everything else is for users, and must be in the archive.
NOT_BUILT = {
    ".ansible-lint",
    ".ci",
    ".config",
    ".gitignore",
    ".yamllint",
    "Makefile",
    "ansible.cfg",
    "lab",
    "molecule",
    "pyproject.toml",
    "tests",
}
NOT_BUILT |= {
    f"requirements-{use}.txt" for use in ("core-2.16", "core-2.18", "core-newest", "demo", "dev", "mutants", "units")
}
MADE_BY_BUILD = {"FILES.json", "MANIFEST.json"}
REPLACED_BY_BUILD = {"galaxy.yml"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built")
    galaxy("build", str(COLLECTION), "--output-path", str(output))
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collections path that holds nothing but the installed archive, which needs no other collection."""
    path = tmp_path_factory.mktemp("installed")
    galaxy("install", str(archive), "--collections-path", str(path), "--offline", path=path)
    return path


@pytest.fixture
def host() -> Iterator[Host]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Host(f"l4bld{os.getpid()}{worker}") as made:
        yield made


def galaxy(*arguments: str, path: Path | None = None) -> None:
    """Run ansible-galaxy collection; `path` is the only place in which it finds collections installed."""
    command = [sys.executable, "-m", "ansible", "galaxy", "collection", *arguments]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(path)} if path else None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def project_files() -> set[str]:
    """What git tracks, and what is new and not ignored."""
    command = ["git", "-C", str(COLLECTION), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (COLLECTION / name).exists()}


def test_archive_holds_what_users_need_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        held = {member.name for member in tar.getmembers() if not member.isdir()}
    needed = {name for name in project_files() if name.split("/")[0] not in NOT_BUILT}
    assert held - MADE_BY_BUILD == needed - REPLACED_BY_BUILD


def test_installed_collection_lists_all_its_plugins(installed: Path) -> None:
    for kind, names in (("module", modules()), ("filter", plugins("filter")), ("connection", plugins("connection"))):
        command = [sys.executable, "-m", "ansible", "doc", "--type", kind, "--list_files", COLLECTION_NAME]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(installed)}
        listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert listed[::2] == [f"{COLLECTION_NAME}.{name}" for name in names]
        assert all(path.startswith(str(installed)) for path in listed[1::2])


@pytest.mark.parametrize(
    "module",
    [module if module == "vip_service" else repetition(module) for module in modules() if module not in ELSEWHERE],
)
def test_installed_module_runs(installed: Path, host: Host, tmp_path: Path, module: str) -> None:
    run_tasks(tmp_path, host, examples("modules", module), collections=str(installed))


@pytest.mark.parametrize("name", plugins("filter"))
def test_installed_filter_runs(installed: Path, host: Host, tmp_path: Path, name: str) -> None:
    run_tasks(tmp_path, host, examples("filter", name), collections=str(installed), web=WEB)


def test_installed_playbook_converges_a_host(installed: Path, host: Host, tmp_path: Path) -> None:
    service = {"name": "web", "vip": "10.96.0.10", "port": 80, "backends": [{"address": "10.0.0.11", "port": 8080}]}
    variables = {**host_variables(host), "service_proxy_services": [service]}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"service_proxy": {"hosts": {TARGET: variables}}}))
    arguments = ("-i", "inventory.yml", f"{COLLECTION_NAME}.site")
    first, second = (ansible_playbook(tmp_path, *arguments, collections=str(installed)) for dummy in range(2))
    assert "-A L4-SERVICES -d 10.96.0.10/32" in host.run("iptables-save", "-t", "nat").stdout
    assert not re.search(r"changed=0 ", first)
    assert re.search(r"changed=0 ", second), second
