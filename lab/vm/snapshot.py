# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots: machines are booted once, and from then on they go on from there, in about a second and side by side."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from .accelerator import QEMU, accelerator
from .command import DISK, Hardware
from .image import DEFAULT_SUITE, Image, image, recipe
from .machine import BOOT_SECONDS, Machine, MachineError, Snapshot, arrive, end, forwarded_port, launch, machine
from .qmp import Qmp, QmpError
from .ssh import Ssh
from .store import made_once

STATE = "state.zst"
SAVE_SECONDS = 120.0

# What the tests need is read once, so that it is in memory later; modules are unloaded again, for the tests are to see
# a host on which nothing has been loaded yet.
WARM_UP = r"""
systemctl is-system-running --wait > /dev/null
modules='ip_vs nf_conntrack_netlink ip_set_hash_ip dummy sctp br_netfilter nf_tables nft_compat iptable_nat ip6table_nat'
for module in $modules; do modprobe "$module"; done
/opt/tests/bin/python -c 'import pytest, hypothesis, pyroute2, ansible.module_utils.basic, ansible.module_utils.testing'
/usr/bin/python3 -c 'import json, socket, struct, subprocess, selectors'
iptables-save > /dev/null; iptables-legacy-save > /dev/null; ipset list > /dev/null; ipvsadm -Sn > /dev/null
for round in 1 2 3; do for module in $(lsmod | awk 'NR > 1 && $3 == 0 {print $1}'); do
    case $module in virtio*) ;; *) modprobe -r "$module" 2> /dev/null ;; esac
done; done
sync
"""


def snapshot(base: Image, hardware: Hardware) -> Snapshot:
    """The snapshot of such a machine, made now if it is missing; MachineError names its console's log."""
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    directory = base / f"snapshot-{key(hardware.command(base), version, WARM_UP)}"
    made_once(directory, lambda fresh: take(base, hardware, fresh))
    return Snapshot(directory / DISK, directory / STATE)


def key(command: Sequence[str], *others: str) -> str:
    """Changes with all that a snapshot depends on: state is of use to the same machine only."""
    return hashlib.sha256("\0".join([*command, *others]).encode()).hexdigest()[:12]


def take(base: Image, hardware: Hardware, directory: Path) -> None:
    """Boot a machine in this directory, warm it up, save it; it runs no more afterwards."""
    process = launch(directory, base, hardware, None, bound=True)
    try:
        booted = Machine("snapshot", directory, Ssh(base, forwarded_port(directory, process)))
        arrive(booted, None)
        booted.ssh.run("sh", "-c", WARM_UP, timeout=BOOT_SECONDS)
        with Qmp(directory) as qmp:
            qmp.command("migrate", uri="exec:zstd -q -1 > " + shlex.quote(str(directory / STATE)))
            qmp.wait("query-migrate", "completed", SAVE_SECONDS)
    except (OSError, QmpError, subprocess.SubprocessError) as error:
        raise MachineError(f"no snapshot: {error}; console: {booted.keep_console()}") from error
    finally:
        end(directory, process)


def restored(name: str, suite: str = DEFAULT_SUITE, lan: int | None = None) -> AbstractContextManager[Machine]:
    """A machine that goes on from the snapshot of a suite; `lan` is the descriptor of eth1's cable.

    What is missing for it is made first: half a minute for a snapshot, more for an image.
    """
    made, hardware = image(recipe(suite)), Hardware(accelerator())
    return machine(name, made, hardware, snapshot(made, hardware), lan)
