# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine that runs: QEMU's process, its control channel and the way in; booted cold or gone on with from a snapshot."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .command import CONSOLE, DISK, Hardware
from .image import ROOT, Image
from .qmp import Qmp, QmpError
from .ssh import Ssh
from .store import LOGS, occupied

EMULATOR_LOG = "qemu.log"
LISTEN_SECONDS = 20.0
RESTORE_SECONDS = 120.0
BOOT_SECONDS = 300.0
END_SECONDS = 10.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"
GREETING = r"""
set -eu
date --set "@$1" > /dev/null
hostname "$2"
echo "$2" > /etc/hostname
ip link set eth1 address "$3"
printf '%s\n' '[Match]' OriginalName=eth1 '[Link]' "MACAddress=$3" > /etc/systemd/network/10-eth1.link
"""


class MachineError(Exception):
    """A machine did not come up; the text names the file with what its console said."""


@dataclass(frozen=True)
class Snapshot:
    """A disk and the state of a machine that runs on it."""

    disk: Path
    state: Path


@dataclass(frozen=True)
class Machine:
    """name: its host name. directory: where its disk, its console's log and its control channel are."""

    name: str
    directory: Path
    ssh: Ssh

    def reboot(self) -> None:
        """Ask it to reboot, and return when it can be asked again."""
        before = self._boot_id()
        self.ssh.run("systemctl", "reboot", check=False)
        give_up = time.monotonic() + BOOT_SECONDS
        while self._boot_id() in ("", before):
            if time.monotonic() > give_up:
                raise MachineError(f"{self.name} did not come back; console: {self.keep_console()}")
            time.sleep(0.2)

    def _boot_id(self) -> str:
        """Empty while it does not answer."""
        with suppress(subprocess.TimeoutExpired):
            return self.ssh.run("cat", BOOT_ID, check=False).stdout if self.ssh.answers() else ""
        return ""

    def keep_console(self) -> Path:
        return keep_console(self.name, self.directory)

    def identify(self) -> None:
        """What a copy of a machine needs to be one of its own: the time of day, a host name, a MAC address of eth1."""
        mac = ":".join(f"{byte:02x}" for byte in b"\x02\x4c\x34" + os.urandom(3))
        self.ssh.run("sh", "-c", GREETING, "greeting", f"{time.time():.3f}", self.name, mac)


def keep_console(name: str, directory: Path) -> Path:
    """Copy what the console and the emulator said to the directory of logs; the copy's path."""
    LOGS.mkdir(parents=True, exist_ok=True)
    kept = LOGS / f"vm-{name}-console.log"
    with open(kept, "wb") as copy:
        for log in (directory / CONSOLE, directory / EMULATOR_LOG):
            copy.write(log.read_bytes() if log.exists() else b"")
    return kept


@contextmanager
def machine(
    name: str, image: Image, hardware: Hardware, snapshot: Snapshot | None = None, lan: int | None = None
) -> Iterator[Machine]:
    """A machine for the length of the block, booted cold if there is no snapshot; it also ends when this process does.

    lan: descriptor of a tap device for eth1.
    """
    directory, lock = occupied(f"{name}-{os.getpid()}")
    try:
        process = launch(directory, image, hardware, snapshot, lan=lan, inherited=(lock,), bound=True)
        try:
            made = Machine(name, directory, Ssh(image, forwarded_port(directory, process)))
            arrive(made, snapshot)
            yield made
        finally:
            end(directory, process)
    finally:
        os.close(lock)
        shutil.rmtree(directory)


def launch(
    directory: Path,
    image: Image,
    hardware: Hardware,
    snapshot: Snapshot | None,
    port: int = 0,
    lan: int | None = None,
    inherited: tuple[int, ...] = (),
    bound: bool = False,
) -> subprocess.Popen[bytes]:
    """Start QEMU in a directory, in a session of its own. bound: the kernel kills it when this process ends."""
    below, kind = (image / ROOT, "raw") if snapshot is None else (snapshot.disk, "qcow2")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(below), str(directory / DISK)]
    subprocess.run(create, check=True, capture_output=True)
    argv = hardware.command(image, port, lan, snapshot.state if snapshot else None)
    with open(directory / EMULATOR_LOG, "wb") as log:
        return subprocess.Popen(
            [*(("setpriv", "--pdeathsig", "KILL", "--") if bound else ()), *argv],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[*inherited, *([] if lan is None else [lan])],
            start_new_session=True,
        )


def arrive(machine: Machine, snapshot: Snapshot | None) -> None:
    """Return when the machine can be used; MachineError if that does not happen."""
    try:
        if snapshot is None:
            machine.ssh.wait(BOOT_SECONDS)
        else:
            with Qmp(machine.directory) as qmp:
                qmp.wait("query-status", "running", RESTORE_SECONDS)
            machine.ssh.wait(RESTORE_SECONDS)
        machine.identify()
    except (OSError, QmpError, subprocess.SubprocessError) as error:
        raise MachineError(f"{machine.name} does not come up: {error}; console: {machine.keep_console()}") from error


def forwarded_port(directory: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that leads to SSH, as soon as QEMU can tell; MachineError with its last words if it ends before."""
    give_up = time.monotonic() + LISTEN_SECONDS
    while True:
        try:
            with Qmp(directory) as qmp:
                return qmp.forwarded_port()
        except (OSError, QmpError) as error:
            if process.poll() is not None or time.monotonic() > give_up:
                said = (directory / EMULATOR_LOG).read_text(errors="replace").strip()
                raise MachineError(f"QEMU does not start: {said or error}") from error
            time.sleep(0.02)


def end(directory: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """Let QEMU end by its control channel, and by force where that fails and the process is ours."""
    with suppress(OSError, QmpError), Qmp(directory, END_SECONDS) as qmp:
        qmp.command("quit")
    if process is not None:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
