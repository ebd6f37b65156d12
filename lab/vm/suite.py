# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests that need a machine's kernel, run inside of fresh machines: their files are dealt out to several."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .checkout import copy_in, inside
from .command import Hardware
from .image import Image
from .machine import Machine, machine
from .snapshot import snapshot
from .store import CHECKOUT, LOGS

ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8")
REPORT = "report.xml"
KINDS = ("failures", "errors", "skipped")


@dataclass(frozen=True)
class Share:
    """One machine's part of the tests, under way there."""

    machine: Machine
    directory: str
    process: subprocess.Popen[str]
    echo: threading.Thread

    def wait(self) -> int:
        self.echo.join()
        return self.process.wait()

    def report(self) -> Path:
        """Fetch pytest's report and return the copy's path; without one (the machine has hung) the file is missing."""
        kept = LOGS / f"vm-{self.machine.name}.xml"
        kept.unlink(missing_ok=True)
        fetched = self.machine.ssh.run("cat", f"{self.directory}/{REPORT}", check=False)
        if fetched.returncode == 0:
            kept.write_text(fetched.stdout)
        return kept


def run_tests(image: Image, hardware: Hardware, paths: Sequence[str], options: Sequence[str], machines: int) -> int:
    """Run pytest on files and directories of the checkout; its output is passed on as it comes.

    0 if all passed. What a machine's console said and pytest's report are kept where something failed.
    """
    shares = dealt(test_files(paths), machines)
    started, failed = time.monotonic(), False
    saved = snapshot(image, hardware)
    with ExitStack() as stack:
        names = [f"{image.directory.name.split('-')[0]}-{number}" for number in range(1, len(shares) + 1)]
        hosts = [stack.enter_context(machine(name, image, hardware, saved)) for name in names]
        running = [_start(host, [*options, *files], stack) for host, files in zip(hosts, shares)]
        reports = []
        for share in running:
            code = share.wait()
            failed |= code != 0
            reports.append(share.report())
            if code:
                print(
                    f"{share.machine.name}: exit status {code}; report: {reports[-1]}; console: {share.machine.keep_console()}"
                )
    print(closing(reports, time.monotonic() - started), flush=True)
    return int(failed)


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


def dealt(files: Sequence[Path], shares: int) -> list[list[str]]:
    """Files in at most so many shares of about the same size; a file's length stands for the time that it takes."""
    sizes = {file: (CHECKOUT / file).stat().st_size for file in files}
    hands: list[list[Path]] = [[] for _number in range(min(shares, len(files)))]
    for file in sorted(files, key=lambda file: (-sizes[file], file)):
        min(hands, key=lambda hand: sum(sizes[held] for held in hand)).append(file)
    return [sorted(map(str, hand)) for hand in hands]


def _start(host: Machine, words: Sequence[str], stack: ExitStack) -> Share:
    directory = copy_in(host.ssh)
    argv = ["python", "-m", "pytest", f"--junitxml={REPORT}", *words]
    process = subprocess.Popen(
        host.ssh.command(*inside(directory, argv), options=ALIVE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stack.callback(process.kill)
    echo = threading.Thread(target=_echo, args=(host.name, process), daemon=True)
    echo.start()
    return Share(host, directory, process, echo)


def _echo(name: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"{name}| {line}")
        sys.stdout.flush()


def closing(reports: Sequence[Path], seconds: float) -> str:
    """One line for all machines, in pytest's words."""
    counts: Counter[str] = Counter()
    for report in filter(Path.exists, reports):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts.update({kind: int(suite.get(kind, 0)) for kind in ("tests", *KINDS)})
    passed = counts["tests"] - sum(counts[kind] for kind in KINDS)
    words = {"failures": "failed", "errors": "errors", "skipped": "skipped"}
    others = "".join(f", {counts[kind]} {words[kind]}" for kind in KINDS if counts[kind])
    return f"{passed} passed{others} in {seconds:.1f}s, on {len(reports)} machines"
