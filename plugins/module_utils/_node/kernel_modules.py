# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel modules of a node, now and at boot. Planning is pure."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .._dataplane import registry
from .._kernel.process import Runner
from .change import Change, NodeError, lines
from .files import File, plan_files
from .settings import Settings

FILE = "/etc/modules-load.d/layer4-service-proxy.conf"
_MODULES = "/proc/modules"
_CONNTRACK = {"nf_conntrack": "/proc/sys/net/netfilter/nf_conntrack_max"}


class Held(NamedTuple):
    """What a kernel says of modules that are asked for."""

    missing: Sequence[str]
    """Neither loaded nor built in."""
    unavailable: Sequence[str]
    """Of those, the ones that nothing can load."""
    is_modular: bool
    """Whether the kernel loads modules at all."""


def wanted_modules(settings: Settings, *, schedulers: Sequence[str], bridges: bool) -> dict[str, str]:
    """Return the modules that a node needs, each with a file that is there when the kernel has it.

    A scheduler of IPVS without its module is loaded by the kernel when it is first asked for, which a confined process may not do.
    """
    wanted: dict[str, str] = {}
    if not settings.is_present:
        return wanted
    if bridges:
        wanted["br_netfilter"] = "/proc/sys/net/bridge"
    if settings.is_ipvs:
        wanted.update({f"ip_vs_{name}": f"/sys/module/ip_vs_{name}" for name in schedulers})
        wanted.update({"ip_vs": "/proc/net/ip_vs", **_CONNTRACK})
    if settings.flow_offload and not registry.presence(settings.dataplane).uses_iptables:
        wanted["nf_flow_table"] = "/sys/module/nf_flow_table"
    if settings.has_overlay and settings.overlay == "vxlan":
        wanted["vxlan"] = "/sys/module/vxlan"
    limits = (
        settings.conntrack_max,
        settings.conntrack_tcp_timeout_established,
        settings.conntrack_tcp_timeout_close_wait,
    )
    return wanted if limits == (None,) * len(limits) else {**wanted, **_CONNTRACK}


def observe(wanted: Mapping[str, str], runner: Runner) -> Held:
    """Return what this kernel says of these modules."""
    is_modular = os.path.exists(_MODULES)
    missing = [name for name, proof in sorted(wanted.items()) if not os.path.exists(proof)]
    if not is_modular:
        # What is built in has no sign of its own: a kernel with IPVS has its schedulers; flow tables it refuses when they are made.
        missing = [name for name in missing if not name.startswith(("ip_vs_", "nf_flow_table"))]
    builtin = _built_in() if missing else ""
    missing = [name for name in missing if not re.search(rf"/{re.escape(name)}\.ko$", builtin, re.MULTILINE)]
    unavailable = [name for name in missing if not is_modular or not _can_be_loaded(name, runner)]
    return Held(missing, unavailable, is_modular)


def _built_in() -> str:
    try:
        with open(f"/lib/modules/{platform.release()}/modules.builtin", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _can_be_loaded(name: str, runner: Runner) -> bool:
    modprobe = runner.find("modprobe")
    return modprobe is not None and runner.run([modprobe, "--dry-run", "--quiet", name])[0] == 0


def refuse_unavailable(held: Held, host: str) -> None:
    """Raise NodeError for a kernel that lacks a module and cannot load it."""
    if not held.unavailable:
        return
    purpose = ', which service_proxy_dataplane "ipvs" needs' if "ip_vs" in held.unavailable else ""
    raise NodeError(
        f"The kernel of {host} has no {', '.join(held.unavailable)}{purpose}: neither built in nor a module that "
        f'"modprobe {held.unavailable[0]}" can load.'
    )


def load_change(held: Held, runner: Runner) -> Change:
    """Return the change that loads what is missing."""

    def apply() -> None:
        modprobe = runner.find("modprobe") or "modprobe"
        code, _out, err = runner.run([modprobe, "--all", *held.missing])
        if code:
            raise NodeError(f"modprobe {' '.join(held.missing)}: {' '.join(err.split())}")

    return Change("modprobe", "", lines(held.missing), apply)


def file_change(wanted: Iterable[str], held: Held) -> Change:
    """Return the change of the file for boot. Raises NodeError."""
    names = sorted(wanted)
    content = File(lines(names)) if names and held.is_modular else None
    return plan_files("modules-load.d", {FILE: content})
