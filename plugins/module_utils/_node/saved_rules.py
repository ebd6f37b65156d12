# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules kept for the next boot by the shell script of the role node, with the units that restore them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from .._kernel.process import Runner
from .change import Change, NodeError
from .files import File, plan_files
from .settings import Settings
from .sysctls import ROUTE_LOCALNET
from .units import Unit, has_systemd, plan_units

DIRECTORY = "/var/lib/layer4-service-proxy"
SCRIPT = "/usr/local/sbin/layer4-service-proxy-rules"
RUN_FILE = "/run/layer4-service-proxy.run"
"""While it is there, and for ten minutes at most, what watches the rules leaves them alone."""
_SERVICE, _WATCH, _TIMER = (
    "layer4-service-proxy.service",
    "layer4-service-proxy-watch.service",
    "layer4-service-proxy-watch.timer",
)
_UNITS: Mapping[str, str | None] = {_SERVICE: "multi-user.target", _WATCH: None, _TIMER: "timers.target"}
_GONE = {"bridge": "BRIDGE", "backend": "BACKEND", "proxy": "SERVICES"}
_FIREWALLS = "firewalld.service ip6tables.service iptables.service ipset.service netfilter-persistent.service nftables.service ufw.service"
"""Those that set rules of their own and may flush all others as they start. Docker does neither, and starts after the network, as
ipvsadm.service does: behind what waits for the network, what the network waits for would not be started at all."""


class Kept(NamedTuple):
    """What the script says."""

    changed: bool
    """Whether what is kept differs from what was."""
    any: bool
    """Whether there is anything to keep."""


def begin_run(settings: Settings) -> None:
    """Have what watches the rules leave them alone."""
    if settings.reapply and settings.save_rules:
        with suppress(OSError), open(os.open(RUN_FILE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w"):
            os.utime(RUN_FILE)


def plan_kept(
    settings: Settings,
    parts: Collection[str],
    runner: Runner,
    script: str,
    *,
    state: str,
    will_change: bool,
    check_mode: bool,
) -> list[Change]:
    """Return the changes of what is kept and of its units; unless in check mode, the rules themselves have been saved.

    state: what vip_service calls the state of the rules; will_change: whether check mode predicts other rules.
    """
    gone = "" if settings.is_present else " ".join(_GONE[part] for part in parts if part in _GONE)
    timeouts = " ".join(str(one or 0) for one in (settings.tcp_timeout, settings.tcpfin_timeout, settings.udp_timeout))
    action = "compare" if check_mode else "save"
    argv = ["sh", "-c", script, "rules.sh", action, settings.chain_prefix, DIRECTORY, gone, timeouts, state]
    code, out, err = runner.run(argv)
    if code:
        raise NodeError(f"rules cannot be saved in {DIRECTORY}: {' '.join(err.split())[:500]}")
    predicted = check_mode and settings.is_present and will_change
    kept = Kept("changed" in out.split() or predicted, "kept" in out.split() or predicted)
    saved = Change("rules at boot", "", f"{DIRECTORY}\n" if kept.changed else "")
    files = plan_files("rules at boot", {SCRIPT: File(script + "\n", 0o755) if kept.any and has_systemd() else None})
    return [saved, files, plan_units("units", _units(settings) if kept.any else [], _UNITS, runner)]


def _units(settings: Settings) -> list[Unit]:
    units = [Unit(_SERVICE, _service(settings), "multi-user.target", started=True)]
    if settings.reapply:
        units += [
            Unit(_WATCH, _watch(settings), None, started=False),
            Unit(_TIMER, _TIMER_TEXT, "timers.target", started=True),
        ]
    return units


def _service(settings: Settings) -> str:
    restore = f"{SCRIPT} restore {settings.chain_prefix} {DIRECTORY}"
    reload = f"ReloadPropagatedFrom={_FIREWALLS}\n" if settings.reapply else ""
    # Behind the rules that guard the loopback, so that it is never open without them.
    localnet = f"ExecStart=-/usr/sbin/sysctl --write {ROUTE_LOCALNET}=1\n" if settings.localhost_node_ports else ""
    return f"""\
# Role layer4.service_proxy.node
[Unit]
Description=Services of layer4.service_proxy
Documentation=man:iptables-restore(8) man:ipvsadm(8)
RequiresMountsFor={DIRECTORY} {SCRIPT}
# Early, as firewalls are: what is ordered behind sysinit.target may wait for the network, and nothing here does.
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
# Sysctls of IPVS and of bridges are set by then, and whoever sets rules of their own has flushed what was there.
After=systemd-modules-load.service systemd-sysctl.service
After={_FIREWALLS}
# No packet arrives before the services stand.
Wants=network-pre.target
Before=network-pre.target network-online.target
{reload}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={restore}
{localnet}ExecReload={restore}

[Install]
WantedBy=multi-user.target
"""


def _watch(settings: Settings) -> str:
    return f"""\
# Role layer4.service_proxy.node, service_proxy_reapply
[Unit]
Description=Bring back services of layer4.service_proxy that someone else has flushed
After=layer4-service-proxy.service

[Service]
Type=oneshot
ExecStart={SCRIPT} watch {settings.chain_prefix} {DIRECTORY}
"""


_TIMER_TEXT = """\
# Role layer4.service_proxy.node, service_proxy_reapply
[Unit]
Description=Look every five seconds whether someone else has flushed services of layer4.service_proxy

[Timer]
OnActiveSec=5s
OnUnitActiveSec=5s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
