# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which commands a node lacks, and the packages that have them. Installing is the playbook's affair."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from .._kernel.process import Runner
from .settings import Settings

_PACKAGES = {
    "bird": "bird",
    "conntrack": "conntrack-tools",
    "ip": "iproute",
    "ip6tables": "iptables-nft",
    "ipset": "ipset",
    "iptables": "iptables-nft",
    "ipvsadm": "ipvsadm",
    "keepalived": "keepalived",
    "nft": "nftables",
}
_OF_DEBIAN = {
    "bird": "bird2",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ip6tables": "iptables",
    "iptables": "iptables",
}
_OF_SUSE = {**_OF_DEBIAN, "bird": "bird", "conntrack": "conntrack-tools"}
_MANAGERS = {"/usr/bin/apt-get": _OF_DEBIAN, "/usr/bin/zypper": _OF_SUSE}
"""Package managers, by their command, whose packages have other names."""
_BASIC = ("conntrack", "ip")
_NEEDED = {
    "iptables": (*_BASIC, "ip6tables", "ipset", "iptables"),
    "ipvs": (*_BASIC, "ip6tables", "ipset", "iptables", "ipvsadm"),
    "nftables": (*_BASIC, "nft"),
}
"""The commands that each dataplane needs."""
_DAEMONS = {"none": (), "vrrp": ("keepalived",), "bgp": ("bird",)}
"""The daemons that announce, by `Settings.announces_by`."""
_NOT_FOR_READING = ("bird", "conntrack", "keepalived", "nft")
"""No run learns from these what a host has."""


def missing_tools(settings: Settings, parts: Collection[str], runner: Runner) -> list[str]:
    """Return the commands that parts of a run need and that are not there, wherever the connection's PATH leads."""
    if not settings.is_present:
        return []
    needed = _NEEDED[settings.dataplane] if "node" in parts else ()
    daemons = _DAEMONS[settings.announces_by] if "announce" in parts else ()
    return [tool for tool in (*needed, *daemons) if runner.find(tool) is None]


def called_by_runs(tools: Sequence[str]) -> list[str]:
    """Return those of these commands without which a host cannot be read."""
    return [tool for tool in tools if tool not in _NOT_FOR_READING]


def packages_of(tools: Sequence[str]) -> list[str]:
    """Return the packages that have these commands, as this host's package manager names them."""
    names = next((of for manager, of in _MANAGERS.items() if os.path.exists(manager)), {})
    return sorted({names.get(tool, _PACKAGES[tool]) for tool in tools})
