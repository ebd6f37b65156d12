# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``make test`` and its smaller sisters run: the stages, their commands and groups."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paths import CHECKOUT, COLLECTION, VENV
from scenarios import IN_CONTAINERS, ON_MACHINES, REPEATED_IN_CONTAINERS, REPEATED_ON_MACHINES

CORES = len(os.sched_getaffinity(0))
TARGET_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
ANSIBLE_CORES = {
    "2.16": ("3.12", "3.11", "3.10"),
    "2.18": ("3.13", "3.12", "3.11"),
    "newest": ("3.14", "3.13", "3.12"),
}
"""What the collection is tried with beside the development environment's, each with the Pythons that it takes."""
TOOLCHAIN = Path(__file__).parent
OF_EVERY_KERNEL = ("bed", "ipvs_choosing", "ipvs_kernel", "ipvs_service")
SEMANTICS_OF_IPVS = (
    "affinity",
    "changing",
    "choosing",
    "flows",
    "health",
    "node",
    "reaching",
    "refusing",
    "rewriting",
    "sctp",
)
WITH_IPVS = ("tests/integration/test_matrix.py", "tests/integration/test_nftables_switching.py")
OFTEN = ("--option=--switches=200", "tests/integration/test_nftables_switching.py")
FAST_AREAS = ("affinity", "choosing", "flows", "node", "reaching", "refusing", "rewriting")
FAST_FILES = (
    *(f"tests/integration/test_semantics_{words}.py" for words in FAST_AREAS),
    *(f"tests/integration/test_{words}.py" for words in ("nat_chain", "ipset_entry", "vip_service", "scenario_a")),
)
ONE_OF_EACH_KIND = "not legacy and not ipv6 and not promiscuous"
BY_NAME_ONLY = (
    "units-fast",
    "integration-fast",
    "integration-repetitions",
    "units-3.10",
    "units-3.12",
    "ansible-core-2.18",
    "molecule-repetitions",
    "molecule-ipvs",
    "ipvs-repetitions",
    "ipvs-semantics",
    "ipvs-trixie",
    "nftables-trixie",
    "switches",
    "machines",
)
"""Not in ``all``: what is a part of it, and what repeats tests of it on another kernel or with another dataplane."""
WARM = ("env", "L4_WARM=1")
"""Modules are forked from a process that has imported them: half of the time of these stages otherwise."""
REMEMBERING = "--import-mode=importlib --strict-markers --strict-config -ra"
"""What pyproject.toml says, with the record of what has failed, which is off elsewhere."""
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


@dataclass(frozen=True)
class Stage:
    """One command with a log of its own.

    cores: how many of the machine's it keeps busy; stages run side by side as far as they fit. timeout: seconds. second_try: the command
    to run if the first has failed; none where what has failed once fails again.
    """

    name: str
    command: Sequence[str]
    group: str
    cores: int = 1
    timeout: float = 900.0
    second_try: Sequence[str] = ()


def python() -> str:
    return str(VENV / "bin" / "python")


def stages() -> list[Stage]:
    """All stages, the long ones of one core first, those that need the whole machine last."""
    return [*_molecule(), *_static(), *_units(), *_cores(), *_fast(), *_namespaces(), *_virtual()]


def selected(words: Sequence[str]) -> list[Stage]:
    """The stages that carry one of these names or belong to one of these groups; ValueError if there is none."""
    known = stages()
    unknown = set(words) - {"all"} - {stage.name for stage in known} - {stage.group for stage in known}
    if unknown:
        raise ValueError(f"no such stage or group: {', '.join(sorted(unknown))}")
    return [stage for stage in known if {stage.name, stage.group} & set(words) or _is_meant_by_all(stage, words)]


def _is_meant_by_all(stage: Stage, words: Sequence[str]) -> bool:
    return "all" in words and stage.name not in BY_NAME_ONLY


def _static() -> list[Stage]:
    tool = [python(), str(TOOLCHAIN / "sanity.py")]
    documentation = ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs=dependent"]
    typed = ["lab", "tests", "molecule", str((COLLECTION / "plugins").relative_to(CHECKOUT))]
    commands = {
        "sanity": tool,
        "ansible-lint": ["ansible-lint", "--profile", "production", "--offline", "--strict"],
        "docs": [*documentation, str(COLLECTION)],
        "mypy": ["mypy", "--cache-dir", ".cache/mypy", *typed],
        "ruff": ["ruff", "check", "--no-cache", "."],
        "yamllint": ["yamllint", "--strict", "."],
        "shellcheck": [python(), str(TOOLCHAIN / "shell_scripts.py")],
        "changelog": ["antsibull-changelog", "lint"],
    }
    return [Stage(name, command, "lint") for name, command in commands.items()]


def _units() -> list[Stage]:
    tool = [python(), str(TOOLCHAIN / "units.py")]
    return [Stage(f"units-{version}", [*tool, found], "units") for version, found in _interpreters().items()]


def _cores() -> list[Stage]:
    """The oldest ansible-core that the collection runs on, one between, and the newest, each with the newest Python that it takes."""
    tool = [python(), str(TOOLCHAIN / "ansible_core.py")]
    return [
        Stage(f"ansible-core-{core}", [*tool, f"requirements-core-{core}.txt", found], "cores", timeout=1800.0)
        for core, pythons in ANSIBLE_CORES.items()
        for found in [next((path for path in map(interpreter, pythons) if path), "no-such-python")]
    ]


def _molecule() -> list[Stage]:
    commands = {
        "molecule": ("containers.py", IN_CONTAINERS),
        "molecule-machines": ("machines.py", ON_MACHINES),
        "molecule-repetitions": ("containers.py", REPEATED_IN_CONTAINERS),
        "molecule-ipvs": ("machines.py", REPEATED_ON_MACHINES),
    }
    return [
        Stage(name, command, "molecule", timeout=2400.0, second_try=command)
        for name, (tool, names) in commands.items()
        for command in [[python(), str(TOOLCHAIN / tool), *names]]
    ]


def _fast() -> list[Stage]:
    """For the minutes between two edits: units on the controller's Python, and packets on one iptables with IPv4."""
    workers = ["-n", str(max(2, CORES)), "--dist", "loadfile"]
    packets = [*WARM, python(), "-m", "pytest", *workers, "-k", ONE_OF_EACH_KIND, *FAST_FILES]
    return [
        Stage("units-fast", [python(), str(TOOLCHAIN / "units.py"), python()], "fast"),
        Stage("integration-fast", packets, "fast", cores=CORES),
    ]


def _namespaces() -> list[Stage]:
    workers = ["-n", str(max(2, CORES)), "--dist", "loadfile"]
    parts = {"integration": "not repetition", "integration-repetitions": "repetition"}
    found = []
    for name, marked in parts.items():
        remembering = ["-o", f"addopts={REMEMBERING}", "-o", f"cache_dir=.cache/pytest/{name}"]
        chosen = ["-m", marked, "tests/integration"]
        command = [*WARM, python(), "-m", "pytest", *remembering, "--durations=10", *workers, *chosen]
        again = [*command, "--last-failed", "--last-failed-no-failures=none"]
        found.append(Stage(name, command, "namespaces", cores=CORES, timeout=3600.0, second_try=again))
    return found


def _virtual() -> list[Stage]:
    """Tests inside of virtual machines, on both kernels of Debian, and with a virtual machine as managed host."""
    inside = [python(), "-m", "lab.vm", "test", "--machines", str(CORES)]
    once = ["--option=-mnot repetition"]
    semantics = [f"tests/integration/test_semantics_{words}.py" for words in SEMANTICS_OF_IPVS]
    commands = {
        "ipvs": [*inside, *once, "tests/virtual"],
        "ipvs-repetitions": [*inside, "--option=-mrepetition", "tests/virtual"],
        "ipvs-matrix": [*inside, "--option=--dataplane=ipvs", *once, *WITH_IPVS],
        "ipvs-semantics": [*inside, "--option=--dataplane=ipvs", *once, *semantics],
        "ipvs-trixie": [*inside, "--suite=trixie", *(f"tests/virtual/test_{words}.py" for words in OF_EVERY_KERNEL)],
        "nftables-trixie": [*inside, "--suite=trixie", "--option=-knftables", *once, *semantics],
        "switches": [*inside, "--option=--dataplane=ipvs", *once, *OFTEN],
        "machines": [python(), "-m", "pytest", "--durations=10", "tests/virtual_hosts"],
    }
    return [
        Stage(name, command, "virtual", cores=CORES, timeout=2400.0, second_try=command)
        for name, command in commands.items()
    ]


def _interpreters() -> dict[str, str]:
    """Every Python that this machine has, of those that a managed host may have: version to path."""
    found = {version: interpreter(version) for version in TARGET_PYTHONS}
    own = subprocess.run(
        [python(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {**{version: path for version, path in found.items() if path}, own.stdout.strip(): python()}


def interpreter(version: str) -> str | None:
    """A working interpreter, from PATH or from where pyenv keeps its own."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))]
    works = [
        path
        for path in candidates
        if path and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode
    ]
    return works[0] if works else None
