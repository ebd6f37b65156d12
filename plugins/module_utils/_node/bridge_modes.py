# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modes of bridges and their ports that let backends reach themselves through a service.

Python's standard library alone: the role bridge installs this file as a script, which sets the modes at boot and whenever a
link is made, from a data file. Names are data everywhere: of files, and arguments of commands without a shell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

DATA = "/var/lib/layer4-service-proxy.bridges"
NET = "/sys/class/net"
PROMISCUOUS, HAIRPIN = "promisc", "hairpin"
_IFF_PROMISC = 0x100
"""Of linux/if.h."""
_SETTLING = 2
"""Seconds: nobody is told when a link becomes the port of a bridge, but most do so as soon as they are made."""


class Mode(NamedTuple):
    """PROMISCUOUS and a bridge, or HAIRPIN and a port."""

    kind: str
    name: str


class Links:
    """The bridges of this host as sysfs has them now."""

    def __init__(self, net: str = NET) -> None:
        self._net = net
        self.ports = {name: self._entries(name, "brif") for name in _names(net) if self._exists(name, "bridge")}
        """By bridge."""

    def _exists(self, *path: str) -> bool:
        return os.path.exists(os.path.join(self._net, *path))

    def _entries(self, *path: str) -> list[str]:
        return _names(os.path.join(self._net, *path))

    def names(self) -> list[str]:
        """Return the names of all devices."""
        return _names(self._net)

    def is_uplink(self, port: str) -> bool:
        """Whether it is a network card, or stands on one, such as a bond or a VLAN.

        A port to a switch would send the network's own broadcasts back to it, which then looks for their senders here.
        """
        return self._exists(port, "device") or any(name.startswith("lower_") for name in self._entries(port))

    def has(self, mode: Mode) -> bool:
        """Whether a mode is on. Raises OSError where the link is gone."""
        kind, name = mode
        if kind == PROMISCUOUS:
            return bool(int(self._read(name, "flags"), 16) & _IFF_PROMISC)
        return self._read(name, "brport", "hairpin_mode") != "0"

    def _read(self, *path: str) -> str:
        with open(os.path.join(self._net, *path), encoding="ascii") as file:
            return file.read().strip()


def _names(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def wanted_modes(policy: dict[str, list[str]], links: Links) -> list[Mode]:
    """Return the modes that a policy asks for on these links.

    policy: ``promiscuous`` has bridges, ``bridges`` those whose ports but uplinks get hairpin mode, ``ports`` single ports.
    """
    existing = {port for ports in links.ports.values() for port in ports}
    promiscuous = [Mode(PROMISCUOUS, name) for name in policy["promiscuous"] if name in links.ports]
    own = [port for name in policy["bridges"] for port in links.ports.get(name, ()) if not links.is_uplink(port)]
    hairpin = {*own, *(port for port in policy["ports"] if port in existing)}
    return promiscuous + [Mode(HAIRPIN, port) for port in sorted(hairpin)]


def set_mode(mode: Mode, on: bool) -> None:
    """Raises OSError with the tool's words, of which none can write to a terminal."""
    kind, name = mode
    tool = ["ip", "link"] if kind == PROMISCUOUS else ["bridge", "link"]
    done = subprocess.run(
        [*tool, "set", "dev", name, kind, "on" if on else "off"],
        env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=30,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().encode("unicode_escape").decode()
        raise OSError(0, f"{' '.join(tool)} set {kind}: {words}")


def main() -> int:
    """Set what the data file asks for; a link that is gone meanwhile is left alone."""
    time.sleep(_SETTLING)
    with open(DATA, encoding="utf-8") as file:
        policy = json.load(file)
    links, failed = Links(), 0
    for mode in wanted_modes(policy, links):
        try:
            if not links.has(mode):
                set_mode(mode, True)
        except (OSError, subprocess.SubprocessError) as error:
            _say(f"{mode!r}: {error}")
            failed += os.path.exists(os.path.join(NET, mode.name))
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
