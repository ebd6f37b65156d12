# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests that need a machine's kernel, run inside of fresh machines, which take one file after another."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from .checkout import copy_in, inside
from .command import Hardware
from .image import Image
from .machine import Machine, machine
from .snapshot import snapshot
from .store import CHECKOUT, LOGS

ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8")
NO_TESTS = 5
"""Exit status of pytest: of this file's tests none was asked for."""
NO_CONNECTION = 255
"""Exit status of ssh."""
KINDS = ("failures", "errors", "skipped")


@dataclass
class Worker:
    """A machine that takes one file of tests after another, as long as any wait."""

    machine: Machine
    directory: str
    """Where the checkout is there."""
    options: Sequence[str]
    reports: list[Path] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)

    def work(self, waiting: deque[Path]) -> None:
        """A file counts as failed until it has passed, whatever happens meanwhile."""
        status = 0
        while status != NO_CONNECTION:
            try:
                file = waiting.popleft()
            except IndexError:
                return
            self.failed.append(file)
            status = self._run(file)
            self.reports.append(self._fetch_report(file))
            if status in (0, NO_TESTS):
                self.failed.remove(file)

    def _run(self, file: Path) -> int:
        argv = ["python", "-m", "pytest", f"--junitxml={file.stem}.xml", *self.options, str(file)]
        command = self.machine.ssh.command(*inside(self.directory, argv), options=ALIVE)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(f"{self.machine.name}| {line}")
                sys.stdout.flush()
        return process.returncode

    def _fetch_report(self, file: Path) -> Path:
        """Fetch pytest's report and return the copy's path; without one (the machine has hung) the file is missing."""
        kept = LOGS / f"vm-{self.machine.name}-{file.stem}.xml"
        kept.unlink(missing_ok=True)
        fetched = self.machine.ssh.run("cat", f"{self.directory}/{file.stem}.xml", check=False)
        if fetched.returncode == 0:
            kept.write_text(fetched.stdout)
        return kept


def run_tests(image: Image, hardware: Hardware, paths: Sequence[str], options: Sequence[str], machines: int) -> int:
    """Run pytest on files and directories of the checkout; its output is passed on as it comes.

    0 if all passed. What a machine's console said and pytest's reports are kept where something failed.
    """
    waiting = deque(longest_first(test_files(paths)))
    started = time.monotonic()
    saved = snapshot(image, hardware)
    with ExitStack() as stack:
        names = [
            f"{image.directory.name.split('-')[0]}-{number}" for number in range(1, min(machines, len(waiting)) + 1)
        ]
        hosts = [stack.enter_context(machine(name, image, hardware, saved)) for name in names]
        workers = [Worker(host, copy_in(host.ssh), options) for host in hosts]
        threads = [threading.Thread(target=worker.work, args=(waiting,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in workers:
            if worker.failed:
                files, kept = ", ".join(map(str, worker.failed)), LOGS / f"vm-{worker.machine.name}-*.xml"
                console = worker.machine.keep_console()
                print(f"{worker.machine.name} failed: {files}; reports: {kept}; console: {console}")
    reports = [report for worker in workers for report in worker.reports]
    counts = counted(reports)
    print(closing(counts, time.monotonic() - started, len(workers)), flush=True)
    return int(bool(waiting) or not counts["tests"] or any(worker.failed for worker in workers))


def test_files(paths: Sequence[str]) -> list[Path]:
    """The files of tests below these paths, relative to the checkout; FileNotFoundError where there is none."""
    found = []
    for path in paths:
        whole = (CHECKOUT / path).resolve()
        files = [whole] if whole.is_file() else sorted(whole.rglob("test_*.py"))
        if not files:
            raise FileNotFoundError(f"no tests in {path}")
        found += [file.relative_to(CHECKOUT) for file in files]
    return found


def longest_first(files: Sequence[Path]) -> list[Path]:
    """Files in the order in which machines take them; a file's length stands for the time that it takes."""
    return sorted(files, key=lambda file: (-(CHECKOUT / file).stat().st_size, file))


def counted(reports: Sequence[Path]) -> Counter[str]:
    """How many tests there were, and of each kind of those that did not pass."""
    counts: Counter[str] = Counter()
    for report in filter(Path.exists, reports):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts.update({kind: int(suite.get(kind, 0)) for kind in ("tests", *KINDS)})
    return counts


def closing(counts: Counter[str], seconds: float, machines: int) -> str:
    """One line for all machines, in pytest's words."""
    passed = counts["tests"] - sum(counts[kind] for kind in KINDS)
    words = {"failures": "failed", "errors": "errors", "skipped": "skipped"}
    others = "".join(f", {counts[kind]} {words[kind]}" for kind in KINDS if counts[kind])
    return f"{passed} passed{others} in {seconds:.1f}s, on {machines} machines"
