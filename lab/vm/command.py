# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line for a machine (pure). A snapshot is bound to all of it but ports, files and cables."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from .accelerator import CPU, QEMU, TCG
from .image import INITIAL, KERNEL, Image
from .qmp import SOCKET

APPEND = "root=/dev/vda rw console=ttyS0 quiet mitigations=off nokaslr net.ifnames=0"
CONSOLE, DISK = "console.log", "disk.qcow2"
LAN_MAC = "52:54:00:4c:34:01"


@dataclass(frozen=True)
class Hardware:
    """What a machine consists of. memory: MiB. Two network cards: eth0 for SSH, eth1 on a test's network."""

    accelerator: str
    memory: int = 1024
    processors: int = 1

    def command(self, image: Image, port: int = 0, lan: int | None = None, state: Path | None = None) -> list[str]:
        """To be run in the machine's directory.

        port: of 127.0.0.1, leads to SSH; 0 for any. lan: descriptor of a tap device, the cable of eth1. state: of a
        snapshot, to go on from.
        """
        multi = ",thread=multi,tb-size=512" if self.accelerator == TCG else ""
        return [
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"),
            *("-accel", self.accelerator + multi, "-cpu", CPU[self.accelerator]),
            *("-smp", str(self.processors), "-m", str(self.memory)),
            *("-kernel", str(image / KERNEL), "-initrd", str(image / INITIAL), "-append", APPEND),
            *(
                "-drive",
                f"if=none,id=disk,file={DISK},format=qcow2,cache=unsafe",
                "-device",
                "virtio-blk-pci,drive=disk",
            ),
            *("-netdev", f"user,id=way-in,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=way-in,romfile=,addr=0x10"),
            *("-netdev", "hubport,id=lan,hubid=0" if lan is None else f"tap,id=lan,fd={lan}"),
            *("-device", f"virtio-net-pci,netdev=lan,romfile=,addr=0x11,mac={LAN_MAC}"),
            *("-device", "virtio-rng-pci", "-serial", f"file:{CONSOLE}", "-qmp", f"unix:{SOCKET},server=on,wait=off"),
            *([] if state is None else ["-incoming", f"exec:zstd -dc {shlex.quote(str(state))}"]),
        ]
