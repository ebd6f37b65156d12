# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How each file of a generation is brought back, and how one tells that it is gone. Runs without Ansible.

To bring back what stands changes nothing but what was edited of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Protocol

from .._kernel.dummy import Device, DeviceError
from .._kernel.iptables import Xtables
from .._kernel.overlay import OverlayError
from .._kernel.process import run_tool
from .._kernel.sysctl import SysctlError, write
from .._objects.iptables import COMMANDS, ChainKey, Jump, Rules, target_of
from .._objects.iptables_text import XtablesError
from . import boot_files, boot_overlay
from .boot_generations import BootError

DEVICE = "l4-ipvs0"
_KIND = "dummy"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_ENDS = ("ACCEPT", "DROP", "REJECT", "RETURN", "LOG", "MARK")
"""Targets that are no chains, without asking; of others the tool knows."""
_WAIT_FOR_XTABLES = 60
"""Seconds."""

ERRORS = (BootError, XtablesError, DeviceError, OverlayError, SysctlError, boot_files.InvalidFileError, OSError)
"""What a facility raises; the text is one line."""

Read = Callable[[str], bytes]
"""The content of a facility's file of the part in question, empty where it has none. Raises BootError for one that is damaged."""


def _text(read: Read, facility: str) -> str:
    return read(facility).decode("utf-8", "surrogateescape")


class Host:
    """The host's tools, wherever PATH leads."""

    def find(self, tool: str) -> str | None:
        return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{_SBIN}")

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        return run_tool(argv, stdin)

    def call(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a tool that is to succeed; its output. Raises BootError, one line."""
        path = self.find(argv[0])
        if path is None:
            raise BootError(f"{argv[0]} is not installed on this host")
        code, stdout, stderr = self.run([path, *argv[1:]], stdin)
        if code != 0:
            raise BootError(f"{argv[0]}: {' '.join((stderr or stdout).split()) or 'failed without a message'}")
        return stdout


class Facility(Protocol):
    """One kind of files. Methods raise one of `ERRORS`."""

    def restore(self, read: Read) -> None:
        """Bring back what the file holds."""

    def stands(self, read: Read) -> bool:
        """Return whether nobody has taken it away, or put behind what keeps it from counting."""


class Sets(NamedTuple):
    """ipsets: their entries, in sets that are made where they are missing."""

    host: Host

    def restore(self, read: Read) -> None:
        self.host.call(["ipset", "-exist", "restore"], _text(read, boot_files.SETS))

    def stands(self, dummy: Read) -> bool:
        """Return True: none goes as long as rules use it."""
        return True


class RuleSet:
    """The iptables rules of one address family, with the jumps to them."""

    def __init__(self, family: str, host: Host) -> None:
        self._tables = Xtables(host, family, _WAIT_FOR_XTABLES)
        self._tool = COMMANDS[family]

    def restore(self, read: Read) -> None:
        self._tables.restore(boot_files.with_jumps(_text(read, self._tool), self._edits(read)))

    def stands(self, read: Read) -> bool:
        """Return whether the jumps are there, each where it counts."""
        return not self._edits(read)

    def _edits(self, read: Read) -> dict[str, str]:
        jumps = boot_files.parse_jumps(_text(read, self._tool + boot_files.JUMPS))
        hooks = {
            hook: self._tables.list_chain(*hook) or [] for hook in dict.fromkeys((one.table, one.hook) for one in jumps)
        }
        return boot_files.jump_edits(jumps, hooks, self._led_to(jumps, hooks))

    def _led_to(self, jumps: Sequence[Jump], hooks: Mapping[ChainKey, Rules]) -> dict[ChainKey, Rules]:
        """The chains of others where a jump of ours must not stand behind a drop: those in which such a drop may be."""
        found: dict[ChainKey, Rules] = {}
        ours = {(one.table, target_of(one.rule)) for one in jumps}
        rules = [(one.table, rule) for one in jumps if one.overtakes for rule in hooks[one.table, one.hook]]
        while rules:
            table, rule = rules.pop()
            target = target_of(rule)
            if not target or target in _ENDS or (table, target) in ours or (table, target) in found:
                continue
            held = self._tables.list_chain(table, target)
            if held is not None:
                found[table, target] = held
                rules += [(table, one) for one in held]
        return found


class NftTable(NamedTuple):
    """Our table of one address family in nftables. Needs no tool. Its parts are restored together, as one transaction."""

    family: str

    def restore(self, read: Read) -> None:
        from . import boot_nftables  # pylint: disable=import-outside-toplevel  # long, and of no use to other dataplanes

        content = read(boot_files.NFT[self.family])
        if content:
            boot_nftables.restore(self.family, content)

    def stands(self, dummy: Read) -> bool:
        from . import boot_nftables  # pylint: disable=import-outside-toplevel

        return boot_nftables.stands(self.family)


class FlowTables(NamedTuple):
    """Those of our table of one address family. Who takes them away takes the table."""

    family: str

    def restore(self, read: Read) -> None:
        from . import boot_nftables  # pylint: disable=import-outside-toplevel

        boot_nftables.restore_offload(self.family, read(boot_files.OFFLOAD[self.family]))

    def stands(self, dummy: Read) -> bool:
        return True


class VirtualServices(NamedTuple):
    """Those of IPVS, with their destinations."""

    host: Host

    def restore(self, read: Read) -> None:
        """What is there already is edited rather than added."""
        held = {_key(line) for line in self.host.call(["ipvsadm", "--save", "--numeric"]).split("\n") if line}
        lines = [line for line in _text(read, boot_files.IPVS).split("\n") if line]
        edited = [_EDITING[line[:2]] + line[2:] if _key(line) in held else line for line in lines]
        self.host.call(["ipvsadm", "--restore"], "".join(line + "\n" for line in edited))

    def stands(self, read: Read) -> bool:
        """Return whether the first is there: who flushes takes all."""
        words = _text(read, boot_files.IPVS).partition("\n")[0].split(" ")
        path = self.host.find("ipvsadm")
        return path is not None and self.host.run([path, "--list", "--numeric", *words[1:3]])[0] == 0


_EDITING = {"-A": "-E", "-a": "-e"}


def _key(line: str) -> tuple[str, ...]:
    """What names a virtual service, or a destination, in a line of ``ipvsadm --save``."""
    words = line.split(" ")
    return (*words[1:3], *words[4:5]) if words[0] == "-a" else tuple(words[1:3])


class IpvsTimeouts(NamedTuple):
    """Those of idle connections."""

    host: Host

    def restore(self, read: Read) -> None:
        timeouts = boot_files.parse_timeouts(_text(read, boot_files.TIMEOUTS))
        self.host.call(["ipvsadm", "--set", *map(str, timeouts)])

    def stands(self, dummy: Read) -> bool:
        return True


class Addresses:
    """The addresses of our device."""

    def restore(self, read: Read) -> None:
        with Device(DEVICE) as device:
            state = device.state()
            if state is None:
                device.create()
            elif state.kind != _KIND:
                raise BootError(f"device {DEVICE} is of kind {state.kind or 'physical'}, not ours")
            elif not state.up:
                device.set_up(True)
            device.add(_text(read, boot_files.ADDRESSES).split())

    def stands(self, dummy: Read) -> bool:
        with Device(DEVICE) as device:
            return device.state() is not None


class Ways:
    """The overlay, which leads to backends of other nodes."""

    def restore(self, read: Read) -> None:
        boot_overlay.restore(read(boot_files.OVERLAY))

    def stands(self, read: Read) -> bool:
        return boot_overlay.stands(read(boot_files.OVERLAY))


class Sysctls:
    """Settings that are safe behind our rules alone."""

    def restore(self, read: Read) -> None:
        for name, value in boot_files.parse_sysctls(_text(read, boot_files.SYSCTLS)).items():
            write(name, value)

    def stands(self, dummy: Read) -> bool:
        return True


def facilities(host: Host) -> dict[str, Facility]:
    """Return what restores each of `boot_files.FACILITIES`, in their order; jumps go with their rules."""
    found: dict[str, Facility] = {boot_files.SETS: Sets(host)}
    found.update({tool: RuleSet(family, host) for family, tool in COMMANDS.items()})
    found.update({name: NftTable(family) for family, name in boot_files.NFT.items()})
    found[boot_files.IPVS] = VirtualServices(host)
    found[boot_files.TIMEOUTS] = IpvsTimeouts(host)
    found[boot_files.ADDRESSES] = Addresses()
    found[boot_files.SYSCTLS] = Sysctls()
    found[boot_files.OVERLAY] = Ways()
    found.update({name: FlowTables(family) for family, name in boot_files.OFFLOAD.items()})
    return found
