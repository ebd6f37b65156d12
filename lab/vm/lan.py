# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cable between a machine's eth1 and a bridge in a network namespace, so that namespaces and machines share a LAN."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from lab.namespaces import Namespace

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


@contextmanager
def cable(lan: Namespace, bridge: str, name: str) -> Iterator[int]:
    """A tap device in the namespace, a port of its bridge; QEMU takes the descriptor. Gone when both have closed it."""
    descriptor = lan.call(_open_tap, name)
    try:
        lan.add_ports(bridge, name)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_tap(name: str) -> int:
    """Without a header of virtio's own in front of frames: a snapshot, taken without a cable, knows none."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
