# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""KVM where it really works, software emulation (TCG) elsewhere."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from .store import STORE

QEMU = "qemu-system-x86_64"
KVM, TCG = "kvm", "tcg"
CPU = {KVM: "host", TCG: "Nehalem"}
PATIENCE = 1.5  # seconds for a firmware without a disk; a KVM that is emulated itself needs several
FIRMWARE_ENDS = b"No bootable device"


@cache
def accelerator() -> str:
    """`KVM` or `TCG`; found out once for each boot of the machine."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = STORE / f"accelerator-{boot}"
    if not found.exists():
        STORE.mkdir(parents=True, exist_ok=True)
        fresh = found.with_name(f"{found.name}.{os.getpid()}")
        fresh.write_text(KVM if kvm_is_usable() else TCG)
        fresh.replace(found)
    return found.read_text()


def kvm_is_usable() -> bool:
    """Whether a firmware runs to its end on KVM as fast as on hardware; a device file alone proves nothing."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    machine = ["-machine", "q35", "-accel", KVM, "-cpu", CPU[KVM], "-m", "64", "-nodefaults", "-display", "none"]
    debug_port = ["-chardev", "stdio,id=log", "-device", "isa-debugcon,iobase=0x402,chardev=log"]
    process = subprocess.Popen(
        ["timeout", str(PATIENCE), QEMU, *machine, *debug_port],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        reached = any(FIRMWARE_ENDS in line for line in process.stdout)
        process.terminate()
    return reached
