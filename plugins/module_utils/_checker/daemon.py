# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checker: makes the checks that a node's services ask for, and has the kernel follow what they find. A service of systemd.

What is found is written down before the kernel follows, so that a run of anybody's reckons with it, and so that the next checker goes
on from it. A flip that cannot be carried out, since another run is under way or the kernel refuses, is tried again.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Callable, NoReturn

from .._dataplane import health_record
from .._health.checks import Out, Probe
from .._health.schedule import Schedule
from .._health.state import Health
from .._kernel.files import FileError
from .._kernel.run_lock import LONGEST_WAIT
from .._model import addresses as ip
from .._node.boot_restore import RESTORED
from .._node.boot_units import PROGRAM
from .attempt import OwnFault
from .notify import ALIVE, READY, STOPPING, notify, watch_again_after, watchdog_seconds
from .prober import BEAT, Clock, Prober, Result
from .services import ERRORS, Services, stamp_of

_LOOK = 1.0
"""Seconds between two looks at whether the node was given something else."""
_AGAIN = 0.2
"""Seconds until a flip that could not be carried out is tried again."""
_MOST = 4000
"""Checks at the same time."""
_SPARE_DESCRIPTORS = 64
_MOST_TOLD = 100
"""Lines about one change."""


def say(line: str) -> None:
    """Write a line to the journal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Checker:
    """One life of the checker."""

    def __init__(self, services: Services, told: Callable[[str], None] = say) -> None:
        self._services, self._say = services, told
        self._clock = Clock()
        self._prober = Prober(self._clock, _most_at_once())
        self._schedule = Schedule(random.random)
        self._written: dict[Probe, str] | None = self._found_before()
        """What is in the file, None where that is not known."""
        self._record = stamp_of(health_record.path())
        self._health = Health(self._written)
        self._pending = set(self._health.failed)
        """Checks whose last flip is not in the kernel yet."""
        self._out: set[Out] = set()
        self._next_look = self._next_try = 0.0
        self._program, self._restored = stamp_of(Path(PROGRAM)), stamp_of(RESTORED)
        self._problem = ""
        self.is_stopping = False

    def _found_before(self) -> dict[Probe, str]:
        try:
            return health_record.read_failed()
        except FileError as error:
            self._say(f"{error}; beginning with all backends healthy")
            return {}

    def run(self) -> None:
        """Check until it is to stop."""
        self._load()
        notify(READY)
        while not self.is_stopping:
            self.turn()
        notify(STOPPING)
        self._prober.close()

    def turn(self) -> None:
        """Start what is due, judge what has ended, and have the kernel follow. Takes up to a second."""
        for probe in self._schedule.due(self._clock.now() + BEAT, self._prober.room):
            self._start(probe)
        wait = min(self._schedule.wait(self._clock.now()) if self._prober.room else _LOOK, _LOOK)
        for result in self._prober.poll(min(wait, _AGAIN) if self._pending else wait):
            self._judge(result)
        now = self._clock.now()
        if (self._pending or self._health.failed != self._written) and now >= self._next_try:
            self._follow()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            notify(ALIVE)
            self._look()

    def _start(self, probe: Probe) -> None:
        try:
            result = self._prober.start(probe)
        except OwnFault as error:
            self._tell_problem(f"checks wait: {error}")
            now = self._clock.now()
            self._schedule.done(probe, now, now)
            return
        if result:
            self._judge(result)

    def _judge(self, result: Result) -> None:
        if result.probe not in self._schedule:
            return
        self._schedule.done(result.probe, result.started, self._clock.now())
        if result.counts and self._health.record(result.probe, result.error):
            self._pending.add(result.probe)

    def _follow(self) -> None:
        """Write down what was found, and have the kernel follow."""
        self._next_try = self._clock.now() + _AGAIN
        failed, pending = self._health.failed, set(self._pending)
        names = self._services.users(pending)
        watch_again_after(2 * LONGEST_WAIT)
        try:
            self._write()
            if not names or self._services.converge(names, failed):
                self._pending -= pending
                self._tell(pending, names)
                self._problem = ""
        except ERRORS as error:
            self._tell_problem(f"{', '.join(names)}: the kernel is not changed yet: {error}")
        finally:
            watch_again_after(watchdog_seconds() or 0)

    def _tell(self, flipped: Collection[Probe], names: Collection[str]) -> None:
        """One line for each backend that is out now, or back, and for each check without consequence."""
        before = {one for one in self._out if one.service in names}
        after = set(self._services.out(names, self._health.failed))
        self._out = (self._out - before) | after
        back = before - after
        ignored = {one for one in back if one.probe in self._health.failed}
        lines = self._lines(after - before, "out of", self._why)
        lines += self._lines(back - ignored, "back in", self._why)
        lines += self._lines(
            ignored, "back in", lambda probe: f"{probe} fails, but too few are healthy (panic_threshold)"
        )
        told = {one.probe for one in after | before}
        for probe in sorted(set(flipped) - told):
            users = ", ".join(self._services.users([probe]))
            reason = self._health.failed.get(probe)
            what = f"failed ({reason})" if reason else "passes"
            lines.append(f"{probe} {what}: no other backends are used because of it ({users})")
        for line in lines[:_MOST_TOLD]:
            self._say(line)
        if len(lines) > _MOST_TOLD:
            self._say(f"and {len(lines) - _MOST_TOLD} more")

    def _lines(self, found: Iterable[Out], what: str, why: Callable[[Probe], str]) -> list[str]:
        users: dict[tuple[str, int, Probe], list[str]] = {}
        for one in found:
            users.setdefault((one.backend.address, one.backend.port, one.probe), []).append(one.service)
        return [
            f"{ip.endpoint(address, port)} is {what} {', '.join(sorted(names))}: {why(probe)}"
            for (address, port, probe), names in sorted(users.items())
        ]

    def _why(self, probe: Probe) -> str:
        reason = self._health.failed.get(probe)
        return f"{probe} failed {probe.fall} times: {reason}" if reason else f"{probe} passed {probe.rise} times"

    def _look(self) -> None:
        """Take over what has changed around the checker."""
        if stamp_of(Path(PROGRAM)) not in (None, self._program):
            self._say("the program has been replaced: starting anew")
            self.is_stopping = True
        elif self._services.current_stamp() != self._services.stamp:
            self._load()
        if stamp_of(health_record.path()) != self._record:
            self._written = None  # somebody has removed or damaged it, and runs in between may have used all backends
            self._pending |= self._health.failed.keys()
        restored = stamp_of(RESTORED)
        if restored != self._restored:
            self._restored = restored
            self._pending |= self._health.failed.keys()

    def _load(self) -> None:
        """Take over what the node is given, without losing what is known of checks that stay."""
        try:
            self._services.load()
        except ERRORS as error:
            self._tell_problem(f"what the node was given cannot be taken over: {error}")
            return
        wanted = self._services.probes
        self._schedule.keep(wanted, self._clock.now())
        self._health.keep(wanted)
        self._pending.intersection_update(wanted)
        self._out = set(self._services.out(self._services.users(self._health.failed), self._health.failed))
        self._say(f"{len(self._schedule)} checks, {len(self._health.failed)} failed")

    def _write(self) -> None:
        """Write down what was found, where that is news. Raises FileError."""
        if self._health.failed != self._written:
            health_record.write_failed(self._health.failed)
            self._written = dict(self._health.failed)
            self._record = stamp_of(health_record.path())

    def _tell_problem(self, line: str) -> None:
        """Once, however often it comes again."""
        if line != self._problem:
            self._problem = line
            self._say(line)


def _most_at_once() -> int:
    """How many descriptors there can be for checks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _SPARE_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - _SPARE_DESCRIPTORS)


def main() -> NoReturn:
    """Run until a signal ends it."""
    checker = Checker(Services())

    def stop(*dummy: object) -> None:
        checker.is_stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    checker.run()
    raise SystemExit(0)
