# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units of systemd that bring a node's services back, by way of the node's program. Nothing in them is a user's text. Pure."""

from __future__ import annotations

from .units import Unit

PROGRAM = "/usr/local/sbin/layer4-service-proxy"
UNIT, OVERLAY, WATCH, TIMER, HEALTH, ANNOUNCE, FLIP = (
    f"layer4-service-proxy{kind}"
    for kind in (
        *(".service", "-overlay.service", "-watch.service", "-watch.timer", "-health.service"),
        *("-announce.service", "-announce.path"),
    )
)
FLIPPED = "/run/layer4-service-proxy/flipped"
"""There while the kernel has followed health checks, but not yet what is announced."""
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

_OVERLAY = f"""\
# Roles layer4.service_proxy.overlay and layer4.service_proxy.proxy
[Unit]
Description=Ways to backends of other nodes, and flow tables, for layer4.service_proxy
Documentation=man:ip-route(8) man:bridge(8)
RequiresMountsFor={_STATE} {PROGRAM}
# Routes need the addresses of the network that the nodes have in common, flow tables the devices.
Wants=network-online.target
After={UNIT} network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={PROGRAM} boot overlay
ExecReload={PROGRAM} boot overlay

[Install]
WantedBy=multi-user.target
"""

_WATCH = f"""\
# Role layer4.service_proxy.node, service_proxy_reapply
[Unit]
Description=Bring back services of layer4.service_proxy that someone else has flushed
After={UNIT} {OVERLAY}

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

_HEALTH = f"""\
# Role layer4.service_proxy.proxy, health_check of services
[Unit]
Description=Health checks of backends for layer4.service_proxy
RequiresMountsFor={_STATE} {PROGRAM}
Wants=network-online.target
After={UNIT} {OVERLAY} network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
# The lock of iptables-legacy has to be there to be writable below.
ExecStartPre=-+/bin/touch /run/xtables.lock
ExecStart={PROGRAM} check
Restart=always
RestartSec=1
WatchdogSec=20
# A tool that changes rules is left to end.
KillMode=mixed

# It listens to nobody, and changes nothing but rules, what it has found, and what runs of it leave.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
ProtectSystem=strict
ReadWritePaths=-/run/xtables.lock
RuntimeDirectory=layer4-service-proxy
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
InaccessiblePaths=/sys/fs/cgroup
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
MemoryMax=1G
LimitNOFILE=8192

[Install]
WantedBy=multi-user.target
"""

# The checker may not write what daemons read, nor talk to them. The file goes first, so that a flip in between is no lost one.
_ANNOUNCE = f"""\
# Role layer4.service_proxy.proxy, health_check of services
[Unit]
Description=Announce what health checks have left of services of layer4.service_proxy
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStartPre=/bin/rm -f {FLIPPED}
ExecStart={PROGRAM} boot announce
"""

_FLIP = f"""\
# Role layer4.service_proxy.proxy, health_check of services
[Unit]
Description=Follow health checks of layer4.service_proxy with what is announced

[Path]
PathExists={FLIPPED}

[Install]
WantedBy=multi-user.target
"""

KNOWN = {
    UNIT: "multi-user.target",
    OVERLAY: "multi-user.target",
    WATCH: None,
    TIMER: "timers.target",
    HEALTH: "multi-user.target",
    ANNOUNCE: None,
    FLIP: "multi-user.target",
}
"""All of these units, each with the target that starts it."""


def wanted_units(*, restore: bool, reapply: bool, overlay: bool, checks: bool) -> list[Unit]:
    """Return the units that are to be there. reapply, overlay: whether `restore` is about these, too. checks: of backends."""
    found = []
    if checks:
        found = [
            Unit(HEALTH, _HEALTH, KNOWN[HEALTH], started=True),
            Unit(ANNOUNCE, _ANNOUNCE, None, started=False),
            Unit(FLIP, _FLIP, KNOWN[FLIP], started=True),
        ]
    if not restore:
        return found
    text = _RESTORE.format(program=PROGRAM, state=_STATE, firewalls=_FIREWALLS, reload=_RELOAD if reapply else "")
    found.append(Unit(UNIT, text, KNOWN[UNIT], started=True))
    if overlay:
        found.append(Unit(OVERLAY, _OVERLAY, KNOWN[OVERLAY], started=True))
    if reapply:
        found += [Unit(WATCH, _WATCH, None, started=False), Unit(TIMER, _TIMER, KNOWN[TIMER], started=True)]
    return found
