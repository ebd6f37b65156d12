# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What listens in this network namespace (``Documentation/networking/proc_net_tcp.rst``), and how the run itself is connected.

What cannot be read raises ListenerError; names of processes and the connection are found where they can be.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .._objects.node_facts import Listener

_STATES = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN; of UDP: bound, and to no peer."""
_LOCAL, _STATE, _INODE = 1, 3, 9
"""Columns."""


class ListenerError(Exception):
    """The sockets could not be read; the text is one line."""


def listeners(protocols: Iterable[str]) -> list[Listener]:
    """Return what listens over these of tcp and udp, without names of processes. Raises ListenerError."""
    tables = [(protocol, Path("/proc/net", protocol + suffix)) for protocol in protocols for suffix in ("", "6")]
    return [one for protocol, path in tables for one in _read(protocol, path)]


def _read(protocol: str, path: Path) -> list[Listener]:
    try:
        with open(path, encoding="ascii") as file:
            return list(parse_sockets(protocol, file))
    except FileNotFoundError as error:
        if path.name.endswith("6") and path.parent.exists():
            return []  # a kernel without IPv6
        raise ListenerError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise ListenerError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise ListenerError(f"{path} is not understood: {error}") from error


def parse_sockets(protocol: str, lines: Iterable[str]) -> Iterator[Listener]:
    """Yield the listeners of a table of sockets. Pure. Raises ValueError or IndexError for what is none.

    The kernel lists what listens over TCP before all connections (``tcp_seq_start``), so that these are not read.
    """
    rows = iter(lines)
    next(rows, None)
    for row in rows:
        columns = row.split()
        if columns[_STATE] == _STATES[protocol]:
            address, dummy, port = columns[_LOCAL].partition(":")
            yield Listener(protocol, _address(address), int(port, 16), int(columns[_INODE]))
        elif protocol == "tcp":
            return


def _address(text: str) -> str:
    """Return an address that is written as words of 32 bits in this machine's order; an IPv4 one inside IPv6 as itself."""
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    found = ipaddress.ip_address(packed)
    return str((found.version == 6 and found.ipv4_mapped) or found)


def process_names(inodes: Collection[int]) -> dict[int, str]:
    """Return the names of the processes that have these sockets open, as far as they can be found."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    names: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        with suppress(OSError):
            for descriptor in os.scandir(process / "fd"):
                inode = wanted.get(_link(descriptor.path))
                if inode is not None and inode not in names:
                    names[inode] = (process / "comm").read_text(errors="replace").strip()
        if len(names) == len(wanted):
            break
    return names


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def ssh_server() -> tuple[str, int] | None:
    """Return the address and port by which the user of this process has connected over SSH; None where there is no telling.

    sshd tells its session in SSH_CONNECTION, which sudo and su hide from their children, hence the ancestors.
    """
    process = os.getpid()
    while process > 0:
        with suppress(OSError, ValueError, IndexError):
            found = _server(Path(f"/proc/{process}/environ").read_bytes())
            if found:
                return found
        try:
            process = int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return None


def _server(environment: bytes) -> tuple[str, int] | None:
    for one in environment.split(b"\0"):
        name, dummy, value = one.decode(errors="replace").partition("=")
        if name == "SSH_CONNECTION":
            address, port = value.split()[2:4]
            return str(ipaddress.ip_address(address.partition("%")[0])), int(port)
    return None
