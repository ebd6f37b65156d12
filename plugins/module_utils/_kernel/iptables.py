# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's iptables rules of one address family, by the tools of one variant, nft or legacy.

Rules go in and come out as ``iptables-save`` spells them, without ``-A CHAIN`` and without counters.
Everything that can fail raises XtablesError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable

from .._objects.iptables import COMMANDS
from .._objects.iptables_text import Rule, XtablesError, clean_message, for_nft, parse_save, refusal
from .process import ModuleRunner, Runner

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

__all__ = ("Rule", "Xtables", "XtablesError", "both_families", "parse_save")

_NFT_TOOL, _LEGACY_TOOL = "xtables-nft-multi", "xtables-legacy-multi"
NFT_FAMILIES = {"ipv4": "ip", "ipv6": "ip6"}


class NoXtablesError(XtablesError):
    """This host has no tables of the family: its tool is not installed, or the kernel lacks them."""


_NONE = re.compile(r"Table does not exist|Address family not supported")
"""What iptables-legacy says where the kernel has no such tables, and both where it has no IPv6."""


class Xtables:
    """One address family's tables."""

    def __init__(self, runner: Runner, family: str, wait: int = 10, variant: str = "") -> None:
        """wait: seconds to wait for the xtables lock, 0 for not at all. variant: nft or legacy, empty for that of the host."""
        self.runner = runner
        self.family = family
        self.command = COMMANDS[family] + (f"-{variant}" if variant else "")
        self.lock_options = ["-w", str(wait)] if wait else []
        self._multi: str | None = None

    def tool(self, suffix: str = "") -> list[str]:
        """The words that start iptables, or ``-save`` or ``-restore``, all of the variant that iptables is of.

        Where iptables is a link to a multi-call program, that program is called, whatever the other links
        lead to; where it is a script of its own, its neighbours in the same directory are called.
        """
        if self._multi is None:
            self._multi = self._find()
        if os.path.basename(self._multi).endswith("-multi"):
            return [self._multi, self.command + suffix]
        return [self._multi + suffix]

    @property
    def is_nft(self) -> bool:
        """Whether the variant is known to be iptables-nft."""
        return os.path.basename(self.tool()[0]) == _NFT_TOOL

    @property
    def is_legacy(self) -> bool:
        """Whether the variant is known to be iptables-legacy."""
        return os.path.basename(self.tool()[0]) == _LEGACY_TOOL

    def _find(self) -> str:
        path = self.runner.find(self.command)
        if path is None:
            raise NoXtablesError(self.command, "is not installed on this host")
        real = os.path.realpath(path)
        return real if real.endswith("-multi") else path

    def save(self, table: str) -> str:
        """The text of ``iptables-save``. Its time grows with the whole table; `list_chain` is far cheaper."""
        return self._run([*self.tool("-save"), "-t", table])

    def save_all(self) -> str:
        """The text of ``iptables-save`` for every table that is in use."""
        return self._run(self.tool("-save"))

    def list_chain(self, table: str, chain: str) -> list[str] | None:
        """The rules of a chain, None where there is no such chain."""
        argv = [*self.tool(), *self.lock_options, "-t", table, "-S", chain]
        code, stdout, stderr = self.runner.run(argv)
        if code == 0:
            return parse_save(stdout).get(chain, [])
        if "No chain/target/match by that name" in stderr:
            return None
        if f"chain `{chain}'" in stderr and "is incompatible" in stderr and not self._exists_in_nft(table, chain):
            return None
        raise self._failure(stderr)

    def _exists_in_nft(self, table: str, chain: str) -> bool:
        """iptables-nft (1.8.8, 1.8.9) calls chains incompatible that are not there: look for it by other means."""
        nft = self.runner.find("nft")
        if nft is None:
            argv = [*self.tool(), *self.lock_options, "-t", table, "-S"]
            return chain in parse_save(self._run(argv))
        code, dummy, stderr = self.runner.run([nft, "list", "chain", NFT_FAMILIES[self.family], table, chain])
        if code and "No such file or directory" not in stderr:
            raise XtablesError("nft", clean_message(stderr))
        return code == 0

    def restore(self, text: str, test: bool = False) -> None:
        """One ``iptables-restore --noflush``: everything in the text, or nothing. test: only let it be parsed."""
        self.restoring(text, test)()

    def restoring(self, text: str, test: bool = False) -> Callable[[], None]:
        """`restore`, ready to be called: all that takes the time of this process is done. Raises XtablesError, then or now."""
        argv = [*self.tool("-restore"), "--noflush", *self.lock_options, *(["--test"] if test else [])]
        arranged = for_nft(text) if self.is_nft else text

        def restore() -> None:
            code, _dummy, stderr = self.runner.run(argv, arranged)
            if code != 0:
                raise refusal(self.command, arranged, stderr)

        return restore

    def _run(self, argv: Sequence[str]) -> str:
        code, stdout, stderr = self.runner.run(argv)
        if code != 0:
            raise self._failure(stderr)
        return stdout

    def _failure(self, stderr: str) -> XtablesError:
        kind = NoXtablesError if _NONE.search(stderr) else XtablesError
        return kind(self.command, clean_message(stderr))


def both_families(module: AnsibleModule, wait: int = 10) -> dict[str, Xtables]:
    """The tables of both address families on a module's host. A family's tools need to be there once it is used."""
    return {family: Xtables(ModuleRunner(module), family, wait) for family in COMMANDS}
