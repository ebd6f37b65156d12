# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings back what the current generation holds: at boot, on reload, and when somebody has flushed it. Runs without Ansible.

Each file for itself, but those of a table of nftables together, in an order in which nothing points at something missing: sets,
rules with the jumps to them, virtual services, addresses, and last the sysctls that are safe behind rules alone. Ways to other nodes
and flow tables come later, when the network is there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Callable, NoReturn

from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, remove_file, write_file
from .._kernel.run_lock import LONGEST_WAIT, LockTimeout, exclusive_run
from .._model.messages import printable
from . import announce, boot_files, boot_generations
from .boot_facilities import ERRORS, Facility, Host, Read, facilities
from .boot_generations import BootError, Generation

_ACTIONS = ("restore", "overlay", "reload", "watch", "announce")
_NETWORK_SECONDS = 60
"""For which `overlay` tries again while it fails, since the network may not be configured yet."""
_FIREWALLD_SECONDS = 30
_STANDING = RUN_DIRECTORY / "standing"
RESTORED = RUN_DIRECTORY / "restored"
"""Another file at each restore, so that the checker brings back what health checks have found: what is kept for boot is without it."""
_SYSTEMD_RUNS = Path("/run/systemd/system")


class Restorer:
    """A generation and the host on which it is to stand. failures: one line for each file that could not be restored."""

    def __init__(self, generation: Generation, host: Host, action: str = "reload") -> None:
        self._generation = generation
        self._facilities = {name: one for name, one in facilities(host).items() if _concerns(action, name)}
        self.failures: list[str] = []

    def restore(self) -> None:
        """Restore all that can be."""
        for facility, one in self._facilities.items():
            parts = self._parts(facility)
            if parts and facility in boot_files.NFT.values():
                self._restore(", ".join(parts), facility, one, partial(self._read_all, parts))
                continue
            for part in parts:
                self._restore(part, facility, one, partial(self._read, part))

    def _restore(self, named: str, facility: str, one: Facility, read: Read) -> None:
        if facility == boot_files.SYSCTLS and self.failures:
            self.failures.append(f"{named}.{facility}: left alone, because not all of the rules stand")
            return
        try:
            one.restore(read)
        except ERRORS as error:
            self.failures.append(f"{named}.{facility}: {error}")

    def gone(self) -> list[str]:
        """Return the files of what somebody has flushed, as far as that can be told."""
        found = []
        for facility, one in self._facilities.items():
            for part in self._parts(facility):
                try:
                    if not one.stands(partial(self._read, part)):
                        found.append(f"{part}.{facility}")
                except ERRORS as error:
                    self.failures.append(f"{part}.{facility}: {error}")
        return found

    def _parts(self, facility: str) -> list[str]:
        """The parts that have a file of this facility, in the order in which they are restored."""
        held = self._generation.parts
        return [part for part in boot_files.PARTS if part in held and facility in held[part].files]

    def _read_all(self, parts: Sequence[str], facility: str) -> bytes:
        """The files of several parts, one behind the other; one that is damaged is left out, and noted."""
        contents = []
        for part in parts:
            try:
                contents.append(self._read(part, facility))
            except BootError as error:
                self.failures.append(f"{part}.{facility}: {error}")
        return b"".join(contents)

    def _read(self, part: str, facility: str) -> bytes:
        if facility not in self._generation.parts[part].files:
            return b""
        return self._generation.read(part, facility)


def _concerns(action: str, facility: str) -> bool:
    """Whether a unit's action is about a facility: at boot, each is about its own; services are announced without ways to other nodes."""
    return action in ("reload", "watch") or (facility in boot_files.AFTER_NETWORK) == (action == "overlay")


def main() -> NoReturn:
    """Run ``boot ACTION`` and exit; for systemd's units alone."""
    action = " ".join(sys.argv[2:])
    if action not in _ACTIONS:
        _complain(f"boot: must be one of {', '.join(_ACTIONS)}")
        raise SystemExit(2)
    raise SystemExit(run(action))


def run(action: str, directory: Path = boot_generations.DIRECTORY, host: Host | None = None) -> int:
    """Do what a unit asks for: one of `_ACTIONS`. Return the exit code; failures go to standard error."""
    found = host or Host()
    if action in ("restore", "overlay") and _is_standing():
        return 0
    if action in ("restore", "reload"):
        _wait_for_firewalld(found)
    end = time.monotonic() + (_NETWORK_SECONDS if action == "overlay" else 0)
    failures = _attempt(action, directory, found)
    while failures and time.monotonic() < end:
        time.sleep(0.5)
        failures = _attempt(action, directory, found)
    for line in failures:
        _complain(line)
    return 1 if failures else 0


def _attempt(action: str, directory: Path, host: Host) -> list[str]:
    """Do it once, under the lock of runs. Return what has failed."""
    try:
        with exclusive_run(0 if action == "watch" else LONGEST_WAIT):
            return _run(action, directory, host)
    except LockTimeout as error:
        return [] if action == "watch" else [str(error)]
    except FileError as error:
        return [str(error)]


def _run(action: str, directory: Path, host: Host) -> list[str]:
    failures: list[str] = []
    generation = _current(directory, failures)
    if generation is None:
        return failures
    restorer = Restorer(generation, host, action)
    if action == "announce":
        return failures + _announce(generation, lambda: not restorer.gone() and not restorer.failures, host)
    if action == "watch":
        gone = restorer.gone()
        if not gone:
            return failures + restorer.failures
        _complain(f"{', '.join(gone)} did not stand any more: restoring generation {generation.number}")
        restorer.failures.clear()
    restorer.restore()
    write_file(RESTORED, "")
    if action != "watch":
        failures += _announce(generation, lambda: not restorer.failures, host)
    return failures + restorer.failures


def _announce(generation: Generation, stands: Callable[[], bool], host: Host) -> list[str]:
    """Announce what the node can serve; failures."""
    try:
        announce.refresh(generation.asked, stands, host)
    except (*ERRORS, *announce.ERRORS) as error:
        return [f"announced addresses: {error}"]
    return []


def _current(directory: Path, failures: list[str]) -> Generation | None:
    """The current generation; where that cannot be told the newest; where it has no index what else it has."""
    newest = max(boot_generations.numbers(directory), default=0)
    try:
        return boot_generations.current(directory)
    except BootError as error:
        failures.append(str(error))
    try:
        return boot_generations.load(directory, newest)
    except BootError:
        return boot_generations.without_index(directory, newest) if newest else None


@contextmanager
def standing() -> Iterator[None]:
    """While the unit is started by a run that has just set all that it would restore, and holds the lock."""
    ensure_directory(RUN_DIRECTORY)
    write_file(_STANDING, str(os.getpid()))
    try:
        yield
    finally:
        remove_file(_STANDING)


def _is_standing() -> bool:
    with suppress(FileError, ValueError):
        process = read_file(_STANDING)
        return process is not None and Path("/proc", str(int(process))).exists()
    return False


def _wait_for_firewalld(host: Host) -> None:
    """systemd calls firewalld started when it has its name on the bus, and then it flushes."""
    command = host.find("firewall-cmd")
    if command is None or not _SYSTEMD_RUNS.is_dir():
        return
    if host.run(["systemctl", "is-active", "--quiet", "firewalld"])[0] != 0:
        return
    end = time.monotonic() + _FIREWALLD_SECONDS
    while host.run([command, "--quiet", "--state"])[0] != 0:
        if time.monotonic() > end:
            _complain("firewalld has not finished: not waiting any longer")
            return
        time.sleep(0.2)


def _complain(line: object) -> None:
    sys.stderr.write(f"{printable(str(line))}\n")
