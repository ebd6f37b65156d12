# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run stages side by side, each with its log in ``.cache/logs``, and close with a summary.

Arguments: names of stages or groups (``all``, ``fast``, ``lint``, ``units``, ``namespaces``, ``molecule``, ``virtual``). Exit status 0
only if every stage passed. Stages of whole hosts and of packets have time limits that a busy machine may miss: one that fails is tried a
second time, alone, and the summary says so and shows what failed at first.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from paths import CACHE, CHECKOUT, COLLECTIONS, HOME, LOGS, VENV
from stages import CORES, TARGET_PYTHONS, Stage, interpreter, selected

HEARTBEAT = 30.0
PYENV_SHIMS = "shims"  # names of all Pythons, most of which only say that they are not the chosen one
SECOND_TRIES_UNTIL = 4500.0
"""Seconds from the beginning within which a second try has to end, if it takes as long as the first."""
TESTS_FAILED = 1
TOLD = re.compile(r"^(?:FAILED |ERROR |E  |fatal: |CRITICAL )")
"""What in a log says why a stage has failed: lines of pytest, Ansible and Molecule."""
PYTEST_CLOSING = re.compile(r"^(?:=+ )?\d+ (?:passed|failed|error|skipped).* in [\d.]+s")


@dataclass
class Running:
    """A stage under way."""

    stage: Stage
    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def seconds(self) -> float:
        return time.monotonic() - self.started


@dataclass(frozen=True)
class Outcome:
    """A stage that ended. status: of its command. closing: pytest's last line, where pytest ran."""

    stage: Stage
    status: int
    seconds: float
    log: Path
    closing: str
    second_try: bool = False

    @property
    def passed(self) -> bool:
        return self.status == 0

    def may_pass_now(self, elapsed: float) -> bool:
        """Whether a second try is worth its time: tests have failed, rather than a tool, the collecting of tests or the time limit."""
        in_time = elapsed + self.seconds < SECOND_TRIES_UNTIL
        return self.status == TESTS_FAILED and bool(self.stage.second_try) and in_time

    def line(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        name = f"{self.stage.name} (2nd try)" if self.second_try else self.stage.name
        return f"{name:<20} {verdict:<6} {self.seconds:7.1f} s  {self.closing.strip('= ')}".rstrip()


def main(words: list[str]) -> int:
    try:
        chosen = selected(words or ["all"])
    except ValueError as error:
        sys.exit(str(error))
    LOGS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with (CACHE / "run.lock").open("w") as lock:
        _wait_for(lock)
        started = time.monotonic()
        outcomes = run_all(chosen)
        for outcome in list(outcomes):
            if outcome.may_pass_now(time.monotonic() - started):
                outcomes.append(tried_again(outcome))
    return summarize(outcomes, time.monotonic() - started)


def _wait_for(lock: IO[str]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another run is under way in this checkout; waiting for its end")
        fcntl.flock(lock, fcntl.LOCK_EX)


def run_all(chosen: Iterable[Stage]) -> list[Outcome]:
    """Run the stages in their order, as many at a time as there are cores for."""
    waiting, running, outcomes = deque(chosen), list[Running](), list[Outcome]()
    environment = stage_environment()
    heard = time.monotonic()
    try:
        while waiting or running:
            while waiting and sum(one.stage.cores for one in running) + waiting[0].cores <= CORES:
                running.append(start(waiting.popleft(), environment))
            time.sleep(0.1)
            for one in [one for one in running if ended(one)]:
                running.remove(one)
                outcomes.append(report(one))
                heard = time.monotonic()
            if time.monotonic() - heard > HEARTBEAT:
                heard = time.monotonic()
                say(*(f"{one.stage.name} {one.seconds():.0f} s: {last_line(one.log)}" for one in running))
    finally:
        for one in running:
            stop(one)
    return outcomes


def tried_again(first: Outcome) -> Outcome:
    """Run a failed stage once more, without any other beside it; the first log stays, under a name of its own."""
    first.log.replace(log_of_first_try(first.log))
    [second] = run_all([replace(first.stage, command=first.stage.second_try)])
    return replace(second, second_try=True)


def log_of_first_try(log: Path) -> Path:
    return log.with_suffix(".first.log")


def stage_environment() -> dict[str, str]:
    """What every stage sees: the tools' environment first, no setting and no collection of the user's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "PYTHONPATH", "MOLECULE_"))
    }
    pythons = [str(Path(path).parent) for path in map(interpreter, TARGET_PYTHONS) if path]
    system = [path for path in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(path).name != PYENV_SHIMS]
    return {
        **kept,
        "PATH": os.pathsep.join([str(VENV / "bin"), *system, "/usr/local/sbin", "/usr/sbin", "/sbin", *pythons]),
        "HOME": str(HOME),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


def start(stage: Stage, environment: dict[str, str]) -> Running:
    say(f"{stage.name}: started")
    log = LOGS / f"{stage.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            stage.command,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(stage, process, log, time.monotonic())


def ended(one: Running) -> bool:
    if one.process.poll() is None and one.seconds() > one.stage.timeout:
        stop(one)
        with one.log.open("a") as log:
            log.write(f"\nstopped: more than {one.stage.timeout:.0f} s\n")
    return one.process.poll() is not None


def stop(one: Running) -> None:
    """End a stage and what it started: politely, so that tests remove their namespaces, then by force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if one.process.poll() is None:
            os.killpg(one.process.pid, number)
        try:
            one.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            continue


def report(one: Running) -> Outcome:
    lines = one.log.read_text(errors="replace").splitlines()
    closing = next((line for line in reversed(lines) if PYTEST_CLOSING.match(line)), "")
    outcome = Outcome(one.stage, one.process.returncode, one.seconds(), one.log, closing)
    say(outcome.line())
    if not outcome.passed:
        print(
            "\n".join([*(f"    {line}" for line in lines[-60:]), f"    log: {one.log.relative_to(CHECKOUT)}"]),
            flush=True,
        )
    return outcome


def summarize(outcomes: list[Outcome], seconds: float) -> int:
    """Print a line for each stage, and what the logs say of those that failed, were it only at first."""
    print()
    for outcome in outcomes:
        print(outcome.line())
    last = {outcome.stage.name: outcome for outcome in outcomes}
    for outcome in (outcome for outcome in outcomes if not outcome.passed):
        log = outcome.log if outcome is last[outcome.stage.name] else log_of_first_try(outcome.log)
        print(f"{outcome.stage.name} failed{'' if log == outcome.log else ' at first'}: {log.relative_to(CHECKOUT)}")
        told = [line[:300] for line in log.read_text(errors="replace").splitlines() if TOLD.match(line)]
        print("\n".join(f"    {line}" for line in told[-12:]))
    failed = [outcome for outcome in last.values() if not outcome.passed]
    print(
        f"{len(last) - len(failed)} of {len(last)} stages passed in {seconds:.0f} s; logs in {LOGS.relative_to(CHECKOUT)}"
    )
    return 1 if failed else 0


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace")[-2000:].splitlines()
    return lines[-1].strip()[-100:] if lines else "no output yet"


def say(*lines: str) -> None:
    for line in lines:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
