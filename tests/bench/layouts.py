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
    return f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def service(number: int, backends: int = 3) -> dict[str, Any]:
    """A service whose backends are ports of one host, so that all of them answer."""
    return {
        "name": f"service-{int(number):05}",
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
        backend["address"] = f"10.{128 + host // 62500}.{host // 250 % 250}.{host % 250 + 1}"
    return made


def services_apart(count: int, backends: int = 3) -> list[dict[str, Any]]:
    return [service_apart(number, backends) for number in range(count)]


def linear(wanted: Sequence[dict[str, Any]]) -> str:
    """A text for iptables-restore: a rule for each service in one chain, a rule for each backend in the service's."""
    chains, rules = ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"], []
    for one in wanted:
        own = f"KUBE-SVC-{one['name'][-5:]}"
        where = f"-d {one['vip']}/32 -p tcp -m tcp --dport {one['port']}"
        comment = f'-m comment --comment "{one["name"]}"'
        rules.append(f"-A KUBE-SERVICES {where} {comment} -j {own}")
        rules.append(f"-A {own} ! -s 10.0.0.0/24 {where} {comment} -j KUBE-MARK-MASQ")
        chains.append(own)
        for at, backend in enumerate(one["backends"]):
            endpoint = f"KUBE-SEP-{one['name'][-5:]}-{at}"
            left = len(one["backends"]) - at
            dice = f"-m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            chains.append(endpoint)
            rules.append(f"-A {own} {comment} {dice} -j {endpoint}")
            rules.append(f"-A {endpoint} -s {backend['address']}/32 {comment} -j KUBE-MARK-MASQ")
            to = f"{backend['address']}:{backend['port']}"
            rules.append(f"-A {endpoint} -p tcp {comment} -m tcp -j DNAT --to-destination {to}")
    rules += [
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
    ]
    return "\n".join(["*nat", *(f":{chain} - [0:0]" for chain in sorted(chains)), *rules, "COMMIT", ""])
