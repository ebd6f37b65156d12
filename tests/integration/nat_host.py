# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host for tests of iptables rules: a namespace, one variant, and readings of its whole state."""

from __future__ import annotations

import os
import re
import socket
import struct
from itertools import count
from pathlib import Path
from typing import Any

from lab.namespaces import Namespace
from module_runner import legacy_path, run_module, run_module_ok

TABLES = ("filter", "nat", "mangle", "raw")
FAMILIES = ("iptables", "ip6tables")
NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16
NLM_F_REQUEST = 1

_numbers = count()


def generation(namespace: Namespace) -> int:
    """The generation number of the namespace's nftables ruleset: any change by anyone increases it, reading never does."""
    return int(namespace.call(_generation))


def _generation() -> int:
    request = struct.pack("=IHHIIBBH", 20, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0, 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(5)
        netlink.sendto(request, (0, 0))
        answer = netlink.recv(4096)
    # Behind the headers of netlink (16) and nfnetlink (4) comes NFTA_GEN_ID: length, type, number in network order.
    return int(struct.unpack_from(">I", answer, 24)[0])


class NatHost:
    """A context manager. path_prefix: what makes `iptables` that of the variant."""

    def __init__(self, legacy: bool) -> None:
        self.legacy = legacy
        self.path_prefix = legacy_path() if legacy else None
        self.namespace = Namespace(f"l4nat{os.getpid()}n{next(_numbers)}")

    def __enter__(self) -> NatHost:
        self.namespace.create()
        return self

    def __exit__(self, *_error: object) -> None:
        self.namespace.delete()

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run nat_chain, which may fail."""
        how = {
            "path_prefix": self.path_prefix,
            **{key: options.pop(key) for key in ("interpreter", "path_prefix") if key in options},
        }
        return run_module(self.namespace, "nat_chain", options, check=check, **how)

    def apply(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run nat_chain, which is expected to succeed."""
        return run_module_ok(self.namespace, "nat_chain", options, check=check, path_prefix=self.path_prefix)

    def iptables(self, *arguments: str, family: str = "iptables", text: str | None = None) -> str:
        """One of the variant's tools: `iptables("-S")`, `iptables("-restore", text=...)`."""
        suffix, rest = ("", arguments)
        if arguments[0] in ("-save", "-restore"):
            suffix, rest = arguments[0], arguments[1:]
        return self.namespace.run(*self._tool(family, suffix), *rest, input=text).stdout

    def _tool(self, family: str, suffix: str) -> list[str]:
        return ["xtables-legacy-multi" if self.legacy else "xtables-nft-multi", family + suffix]

    def rules(self, chain: str, table: str = "nat", family: str = "iptables") -> list[str]:
        """A chain's rules without ``-A CHAIN``."""
        lines = self.iptables("-t", table, "-S", chain, family=family).splitlines()
        return [line.split(" ", 2)[2] for line in lines if line.startswith("-A ")]

    def chains(self, table: str = "nat", family: str = "iptables") -> list[str]:
        """The user-defined chains of a table."""
        lines = self.iptables("-t", table, "-S", family=family).splitlines()
        return [line.split(" ")[1] for line in lines if line.startswith("-N ")]

    def saved(self) -> str:
        """All tables of both families with their counters, without the time of day."""
        commands = [
            " ".join([*self._tool(family, "-save"), "-c", "-t", table]) for family in FAMILIES for table in TABLES
        ]
        text = self.namespace.run("sh", "-c", " && ".join(commands)).stdout
        return re.sub(r"^# .*\n", "", text, flags=re.MULTILINE)

    def state(self) -> tuple[int, str]:
        """What a run that changes nothing leaves as it is; for the legacy variant its rules are all there is."""
        return 0 if self.legacy else generation(self.namespace), self.saved()


def script(directory: Path, name: str, *lines: str) -> Path:
    """An executable shell script in a directory."""
    path = directory / name
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path
