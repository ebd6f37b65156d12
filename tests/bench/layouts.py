# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that are measured, as users write them, and in the layout that kube-proxy gives them: lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PORT = 80
BACKEND = "10.0.0.2"
BACKEND_PORT = 8080
_MOST_HOSTS = 4
"""Of a service each of whose backends is a host of its own."""
NODE = {"name": "node", "addresses": ["10.0.1.1"], "local_cidrs": ["10.0.0.0/24"]}


def vip(number: int) -> str:
    """Of a service, counted from 0."""
    return "10.96.%d.%d" % (number // 250, number % 250 + 1)


def service(number: int, backends: int = 3) -> dict[str, Any]:
    """A service whose backends are ports of one host, so that all of them answer."""
    return {
        "name": "service-%05d" % number,
        "vip": vip(number),
        "port": PORT,
        "backends": [{"address": BACKEND, "port": BACKEND_PORT + at} for at in range(backends)],
    }


def services(count: int, backends: int = 3) -> list[dict[str, Any]]:
    return [service(number, backends) for number in range(count)]


def service_apart(number: int, backends: int = 3) -> dict[str, Any]:
    """The same with each backend on a host of its own, as they mostly are; none of them answers."""
    made = service(number, backends)
    for host, backend in enumerate(made["backends"], number * _MOST_HOSTS):
        backend["address"] = "10.%d.%d.%d" % (128 + host // 62500, host // 250 % 250, host % 250 + 1)
    return made


def services_apart(count: int, backends: int = 3) -> list[dict[str, Any]]:
    return [service_apart(number, backends) for number in range(count)]


def linear(wanted: Sequence[dict[str, Any]]) -> str:
    """A text for iptables-restore: a rule for each service in one chain, a rule for each backend in the service's."""
    chains, rules = ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"], []
    for one in wanted:
        own = "KUBE-SVC-%s" % one["name"][-5:]
        where = "-d %s/32 -p tcp -m tcp --dport %d" % (one["vip"], one["port"])
        comment = '-m comment --comment "%s"' % one["name"]
        rules.append("-A KUBE-SERVICES %s %s -j %s" % (where, comment, own))
        rules.append("-A %s ! -s 10.0.0.0/24 %s %s -j KUBE-MARK-MASQ" % (own, where, comment))
        chains.append(own)
        for at, backend in enumerate(one["backends"]):
            endpoint = "KUBE-SEP-%s-%d" % (one["name"][-5:], at)
            left = len(one["backends"]) - at
            dice = "-m statistic --mode random --probability %.10f" % (1 / left) if left > 1 else ""
            chains.append(endpoint)
            rules.append("-A %s %s %s -j %s" % (own, comment, dice, endpoint))
            rules.append("-A %s -s %s/32 %s -j KUBE-MARK-MASQ" % (endpoint, backend["address"], comment))
            to = "%(address)s:%(port)d" % backend
            rules.append("-A %s -p tcp %s -m tcp -j DNAT --to-destination %s" % (endpoint, comment, to))
    rules += [
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
    ]
    return "\n".join(["*nat", *(":%s - [0:0]" % chain for chain in sorted(chains)), *rules, "COMMIT", ""])
