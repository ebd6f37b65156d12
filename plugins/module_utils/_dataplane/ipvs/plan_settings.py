# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's settings that the ipvs dataplane needs, wanted against held. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..._model.service import Node
from ..._objects.ipvs import Timeouts
from .compile import Frontends

SYSCTLS = (
    *(
        f"net/ipv4/vs/{name}"
        for name in ("conntrack", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template")
    ),
    *(f"net/ipv4/conf/all/{name}" for name in ("arp_ignore", "arp_announce")),
)
"""All that `wanted_sysctls` may set."""


class SettingsPlan(NamedTuple):
    """Settings of the kernel to change: sysctls from and to, and the timeouts of IPVS."""

    sysctls: dict[str, tuple[int, int]]
    timeouts: tuple[Timeouts, Timeouts] | None

    @property
    def changed(self) -> bool:
        return bool(self.sysctls or self.timeouts)

    def lines(self, side: int) -> dict[str, list[str]]:
        return {
            "sysctl": [f"{name.replace('/', '.')} = {int(pair[side])}" for name, pair in sorted(self.sysctls.items())],
            "ipvsadm": ["--set " + " ".join(map(str, self.timeouts[side]))] if self.timeouts else [],
        }


def plan_settings(node: Node, wanted: Mapping[str, int], held: Mapping[str, int | None], now: Timeouts) -> SettingsPlan:
    """held: sysctls, None where the kernel does not have one. now: the timeouts that the kernel has."""
    changed = {
        name: (have, value)
        for name, value in wanted.items()
        for have in [held[name]]
        if have is not None and have != value
    }
    given = {"tcp": node.tcp_timeout, "tcpfin": node.tcpfin_timeout, "udp": node.udp_timeout}
    then = now._replace(**{key: value for key, value in given.items() if value is not None})
    return SettingsPlan(changed, (now, then) if now != then else None)


def wanted_sysctls(node: Node, wanted: Frontends) -> dict[str, int]:
    """By the name that has slashes. Connection tracking is what masquerades; a template of persistence does not outlive a
    weight of 0. With ``direct`` the backends have the address too, and only one may answer for it. None without services.
    """
    if not wanted:
        return {}
    values = {
        "net/ipv4/vs/conntrack": 1,
        "net/ipv4/vs/expire_nodest_conn": int(node.expire_nodest_conn),
        "net/ipv4/vs/expire_quiescent_template": 1,
    }
    if node.conn_reuse_mode is not None:
        values["net/ipv4/vs/conn_reuse_mode"] = node.conn_reuse_mode
    methods = {
        one.forward_method
        for frontend in wanted.values()
        if frontend.virtual
        for one in frontend.virtual.destinations.values()
    }
    if "direct" in methods:
        values.update({"net/ipv4/conf/all/arp_ignore": 1, "net/ipv4/conf/all/arp_announce": 2})
    return values
