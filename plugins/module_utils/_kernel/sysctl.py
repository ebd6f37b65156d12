# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sysctls as numbers, in /proc/sys. Everything that can fail raises SysctlError."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")


class SysctlError(Exception):
    """A setting could not be read or written; the text is one line that names it."""


def read(name: str) -> int | None:
    """Return a setting by the name that has slashes, such as ``net/ipv4/ip_forward``; None where the kernel has none of it."""
    try:
        return int((_ROOT / name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no number"
        raise SysctlError(f"sysctl {name.replace('/', '.')} cannot be read: {reason}") from error


def write(name: str, value: int) -> None:
    """Until the next boot, in this network namespace. Raises SysctlError."""
    try:
        (_ROOT / name).write_text(f"{value}\n")
    except OSError as error:
        raise SysctlError(f"sysctl {name.replace('/', '.')} cannot be set to {value}: {error.strerror}") from error


def per_interface(family: str, setting: str) -> dict[str, int]:
    """Return a setting of ``net.ipv4.conf`` or ``net.ipv6.conf`` by interface, among them ``all``, without ``default``."""
    found = {}
    for path in sorted((_ROOT / "net" / family / "conf").glob("*/" + setting)):
        value = read(str(path.relative_to(_ROOT)))
        if value is not None and path.parent.name != "default":
            found[path.parent.name] = value
    return found
