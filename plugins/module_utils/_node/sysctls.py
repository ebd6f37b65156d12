# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sysctls of a node, now and at boot. What they were found as is remembered in the file for boot, and given back. Planning is pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .._kernel import sysctl
from .change import Change, lines
from .files import File, plan_files, read_text
from .settings import Settings

FILE = "/etc/sysctl.d/zz-layer4-service-proxy.conf"
"""The last name in its directory, so that no other file there overrules it at boot."""
ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
"""Opens the node's loopback to its neighbours unless rules guard it: set behind them, also at boot, and hence not by FILE."""
_LATE = frozenset([ROUTE_LOCALNET])
_FOUND = re.compile(r"# found ([a-z0-9_.-]+)=(-?\d+)")
_KEPT = re.compile(r"([a-z0-9_.-]+)=(-?\d+)")
_UNLOADED = {"net.ipv4.vs.conn_reuse_mode": 1}
_UNLOADED_PREFIXES = ("net.bridge.", "net.ipv4.vs.")
"""Of sysctls that are there once their module is loaded, with 0 but for those above."""

Values = Mapping[str, int]


class Recorded(NamedTuple):
    """What the file for boot says."""

    found: Values
    """What sysctls were before they were first set."""
    kept: Values
    """What they are set to at boot."""


class SysctlPlan(NamedTuple):
    """What is to be done, in the order in which it is."""

    give_back: Values
    """Those that are no longer wanted, with what they were found as."""
    closing: Values
    """The same of those that are safe only behind rules: to be given back while the rules stand."""
    record: Recorded | None
    """What the file is to say; None: there is to be none."""
    early: Values
    """Those to be set before rules are."""
    late: Values
    """Those to be set behind the rules."""


def wanted_sysctls(settings: Settings, *, ipv6: bool, direct: bool, bridges: bool) -> dict[str, int]:
    """Return the sysctls that a node needs. ipv6, direct: what its services ask for; bridges: whether it has some with backends."""
    if not settings.is_present:
        return {}
    has_ipv6 = ipv6 or any(":" in cidr for cidr in [*settings.local_cidrs, *settings.overlay_cidrs])
    wanted: dict[str, int | None] = {"net.ipv4.ip_forward": 1}
    if has_ipv6 if settings.ipv6_forwarding is None else settings.ipv6_forwarding:
        wanted["net.ipv6.conf.all.forwarding"] = 1
    if bridges:
        wanted.update({f"net.bridge.bridge-nf-call-{tool}": 1 for tool in ("iptables", "ip6tables")})
    if settings.localhost_node_ports:
        wanted[ROUTE_LOCALNET] = 1
    if settings.is_ipvs:
        wanted.update(_ipvs_sysctls(settings))
    # What the dataplane binds on every node must not be answered for by those that do not hold it.
    if settings.is_ipvs and (direct or settings.announces_by == "vrrp"):
        wanted.update(_DIRECT)
    for setting in ("max", "tcp_timeout_established", "tcp_timeout_close_wait"):
        wanted[f"net.netfilter.nf_conntrack_{setting}"] = getattr(settings, f"conntrack_{setting}")
    return {key: value for key, value in wanted.items() if value is not None}


_DIRECT: dict[str, int | None] = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}


def _ipvs_sysctls(settings: Settings) -> dict[str, int | None]:
    return {
        "net.ipv4.vs.conn_reuse_mode": settings.conn_reuse_mode,
        "net.ipv4.vs.conntrack": 1,
        "net.ipv4.vs.expire_nodest_conn": int(settings.expire_nodest_conn),
        "net.ipv4.vs.expire_quiescent_template": 1,
    }


def _is_set_with_services(key: str) -> bool:
    """Whether the ipvs dataplane sets it; here it is only kept for boot, and given back."""
    return key.startswith("net.ipv4.vs.")


def plan_sysctls(wanted: Values, now: Values, recorded: Recorded, present: bool) -> SysctlPlan:
    """Return the difference. now: of all sysctls that are wanted or recorded, those that there are."""
    no_longer = {key: value for key, value in recorded.found.items() if key not in wanted}
    give_back = {key: value for key, value in no_longer.items() if key in now and now[key] != value}
    found = {key: recorded.found.get(key, now.get(key)) for key in wanted}
    known = {key: value for key, value in found.items() if value is not None}
    kept = {key: value for key, value in wanted.items() if key not in _LATE}
    to_set = {key: value for key, value in wanted.items() if now.get(key) != value and not _is_set_with_services(key)}
    return SysctlPlan(
        {key: value for key, value in give_back.items() if key not in _LATE},
        {key: value for key, value in give_back.items() if key in _LATE},
        Recorded(known, kept) if present else None,
        {key: value for key, value in to_set.items() if key not in _LATE},
        {key: value for key, value in to_set.items() if key in _LATE},
    )


def parse_record(text: str | None) -> Recorded:
    """Return what the file says; nothing where there is none."""
    found = [_FOUND.fullmatch(line) for line in (text or "").split("\n")]
    kept = [_KEPT.fullmatch(line) for line in (text or "").split("\n")]
    return Recorded(*({match[1]: int(match[2]) for match in matches if match} for matches in (found, kept)))


def render_record(record: Recorded) -> str:
    """Return the file's text."""
    head = "# Role layer4.service_proxy.node. What it found is what it gives back when it is removed."
    found = [f"# found {key}={value}" for key, value in sorted(record.found.items())]
    return lines([head, *found, *(f"{key}={value}" for key, value in sorted(record.kept.items()))])


def read_now(keys: Iterable[str]) -> dict[str, int]:
    """Return the values of those sysctls that there are; of a module that is not loaded, its defaults."""
    values: dict[str, int] = {}
    for key in keys:
        value = sysctl.read(_path(key))
        if value is None and key.startswith(_UNLOADED_PREFIXES):
            value = _UNLOADED.get(key, 0)
        if value is not None:
            values[key] = value
    return values


def observe(wanted: Values, present: bool) -> tuple[SysctlPlan, Values]:
    """Return the plan for this node, and the values of now. Raises NodeError where the file cannot be read."""
    recorded = parse_record(read_text(FILE))
    now = read_now({**recorded.found, **wanted})
    return plan_sysctls(wanted, now, recorded, present), now


def is_recorded(key: str) -> bool:
    """Return whether the file says what a sysctl was found as. Raises NodeError where it cannot be read."""
    return key in parse_record(read_text(FILE)).found


def file_change(plan: SysctlPlan) -> Change:
    """Return the change of the file for boot. Raises NodeError."""
    return plan_files("sysctl.d", {FILE: File(render_record(plan.record)) if plan.record else None})


def value_change(name: str, values: Values, now: Values) -> Change:
    """Return the change of these sysctls, as ``sysctl`` prints them."""

    def apply() -> None:
        for key, value in sorted(values.items()):
            sysctl.write(_path(key), value)

    before = lines(f"{key} = {now[key]}" for key in sorted(values) if key in now)
    return Change(name, before, lines(f"{key} = {value}" for key, value in sorted(values.items())), apply)


def _path(key: str) -> str:
    return key.replace(".", "/")
