# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What brings a node's services back: units of systemd, and the program that they call. Nothing in them is a user's text. Pure."""

from __future__ import annotations

from typing import NamedTuple, Union

PROGRAM = "/usr/local/sbin/layer4-service-proxy"
UNIT, WATCH, TIMER = (f"layer4-service-proxy{kind}" for kind in (".service", "-watch.service", "-watch.timer"))
_UNITS = "/etc/systemd/system/"
_STATE = "/var/lib/layer4-service-proxy"

# Those that set rules of their own and may flush all others as they start. Docker does neither, and starts after the network, as
# ipvsadm.service does: behind what waits for the network, what the network waits for would not be started at all.
_FIREWALLS = " ".join(
    f"{name}.service"
    for name in ("firewalld", "ip6tables", "iptables", "ipset", "netfilter-persistent", "nftables", "ufw")
)

_RESTORE = """\
# Role layer4.service_proxy.node
[Unit]
Description=Services of layer4.service_proxy
Documentation=man:iptables-restore(8) man:nft(8) man:ipvsadm(8)
RequiresMountsFor={state} {program}
# Early, as firewalls are: what is ordered behind sysinit.target may wait for the network, and nothing here does.
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
# Sysctls of IPVS and of bridges are set by then, and whoever sets rules of their own has flushed what was there.
After=systemd-modules-load.service systemd-sysctl.service
After={firewalls}
# No packet arrives before the services stand.
Wants=network-pre.target
Before=network-pre.target network-online.target
{reload}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} boot restore
ExecReload={program} boot reload

[Install]
WantedBy=multi-user.target
"""
_RELOAD = f"ReloadPropagatedFrom={_FIREWALLS}\n"

_WATCH = f"""\
# Role layer4.service_proxy.node, service_proxy_reapply
[Unit]
Description=Bring back services of layer4.service_proxy that someone else has flushed
After={UNIT}

[Service]
Type=oneshot
ExecStart={PROGRAM} boot watch
"""

_TIMER = """\
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


class File(NamedTuple):
    """A regular file of root's."""

    content: bytes
    mode: int


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Wanted = Union[File, Link, None]
"""What a path is to be; None: nothing is to be there."""


def wanted_files(program: bytes | None, *, restore: bool, reapply: bool) -> dict[str, Wanted]:
    """Return what is to be at each path that is ours. program: None where there is no need for it. reapply: as of `restore`."""
    text = _RESTORE.format(program=PROGRAM, state=_STATE, firewalls=_FIREWALLS, reload=_RELOAD if reapply else "")
    files: dict[str, Wanted] = {PROGRAM: None if program is None else File(program, 0o755)}
    files.update(_unit(UNIT, text if restore else None, "multi-user.target"))
    files.update(_unit(WATCH, _WATCH if restore and reapply else None))
    files.update(_unit(TIMER, _TIMER if restore and reapply else None, "timers.target"))
    return files


def wanted_units(*, restore: bool, reapply: bool) -> list[str]:
    """Return the units that are to be active."""
    return [UNIT, *([TIMER] if reapply else [])] if restore else []


def _unit(name: str, text: str | None, wanted_by: str = "") -> dict[str, Wanted]:
    files: dict[str, Wanted] = {_UNITS + name: None if text is None else File(text.encode(), 0o644)}
    if wanted_by:
        files[f"{_UNITS}{wanted_by}.wants/{name}"] = None if text is None else Link(_UNITS + name)
    return files
