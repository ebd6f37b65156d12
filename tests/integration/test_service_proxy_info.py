# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What `service_proxy_info` reads back from kernels that `vip_service`, or nobody, has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.namespaces import Namespace
from module_runner import legacy_path, run_module, run_module_ok

WEB: dict[str, Any] = {
    "name": "web",
    "vip": ["10.96.0.1", "fd96::1"],
    "port": 80,
    "node_port": 30080,
    "session_affinity": "client_ip",
    "backends": [
        {"address": "10.0.1.11", "port": 8080, "weight": 3},
        {"address": "10.0.1.12", "port": 8080},
        {"address": "fd00:1::11", "port": 8080},
    ],
}
ONLY_IPV4 = """#!/bin/sh
exec unshare --mount sh -c '
    mount -t tmpfs none /etc/alternatives &&
    for tool in iptables iptables-save iptables-restore; do ln -s "/usr/sbin/$tool-nft" "/etc/alternatives/$tool"; done &&
    exec /usr/bin/python3 "$@"' sh "$@"
"""
DNS = {"name": "dns", "vip": "10.96.0.2", "external_ips": ["203.0.113.2"], "port": 53, "protocol": "udp"}


@pytest.fixture(name="host", params=["nft", "legacy"])
def _host(request: pytest.FixtureRequest) -> Iterator[tuple[Namespace, str | None]]:
    with Namespace(f"l4info{os.getpid()}") as namespace:
        yield namespace, legacy_path() if request.param == "legacy" else None


def _iptables(host: tuple[Namespace, str | None], **options: Any) -> dict[str, Any]:
    result = run_module_ok(host[0], "service_proxy_info", options, path_prefix=host[1])
    assert result["changed"] is False
    found: dict[str, Any] = result["dataplanes"]["iptables"]
    return found


def _apply(host: tuple[Namespace, str | None], *services: dict[str, Any], **options: Any) -> None:
    run_module_ok(host[0], "vip_service", {"services": services, "exclusive": True, **options}, path_prefix=host[1])


def test_an_untouched_host_has_nothing(host: tuple[Namespace, str | None]) -> None:
    counts = {"services": 0, "chains": 0, "rules": 0, "sets": 0, "destinations": 0}
    assert _iptables(host) == {"services": [], "counts": counts, "unreadable": {}}


def test_services_are_read_with_the_shares_of_their_backends(host: tuple[Namespace, str | None]) -> None:
    _apply(host, WEB, DNS)
    found = _iptables(host)
    dns, web = found["services"]
    assert (web["name"], web["protocol"], web["port"], web["node_port"]) == ("web", "tcp", 80, 30080)
    assert web["vip"] == WEB["vip"]
    assert [(one["address"], one["port"], one["share"]) for one in web["backends"]] == [
        ("10.0.1.11", 8080, 0.75),
        ("10.0.1.12", 8080, 0.25),
        ("fd00:1::11", 8080, 1.0),
    ]
    assert web["refusals"] == []
    assert (dns["name"], dns["protocol"], dns["port"], dns["backends"]) == ("dns", "udp", 53, [])
    refused = {(one["address"], one["port"], one["verdict"], one["reason"]) for one in dns["refusals"]}
    assert refused == {(address, 53, "reject", "no backends") for address in ("10.96.0.2", "203.0.113.2")}


def test_what_is_counted_is_in_the_kernel(host: tuple[Namespace, str | None]) -> None:
    _apply(host, WEB, DNS)
    lines: list[str] = []
    for tool in ("iptables", "ip6tables"):
        lines += host[0].run(f"{host[1] + '/' if host[1] else ''}{tool}-save").stdout.splitlines()
    counts = _iptables(host)["counts"]
    assert counts == {
        "services": 2,
        "chains": sum(line.startswith(":L4-") for line in lines),
        "rules": sum(line.startswith("-A L4-") for line in lines),
        "sets": host[0].run("ipset", "list", "-name").stdout.count("\n"),
        "destinations": 3,
    }
    assert counts["sets"] == 3


def test_another_prefix_is_another_proxy(host: tuple[Namespace, str | None]) -> None:
    _apply(host, WEB, node={"chain_prefix": "EDGE"})
    assert _iptables(host)["counts"]["chains"] == 0
    found = _iptables(host, node={"chain_prefix": "EDGE", "masquerade_all": True})
    assert [service["name"] for service in found["services"]] == ["web"]
    refused = run_module(host[0], "service_proxy_info", {"node": {"chain_prefix": "edge"}}, path_prefix=host[1])
    assert refused["failed"]
    assert "chain_prefix" in refused["msg"]


def test_what_a_person_took_away_is_not_shown(host: tuple[Namespace, str | None]) -> None:
    _apply(host, DNS)
    tool = f"{host[1]}/iptables" if host[1] else "iptables"
    host[0].run(tool, "-F", "L4-FIREWALL")
    assert _iptables(host)["services"] == []


def test_a_host_without_the_tools_of_a_family_tells_what_the_other_has(tmp_path: Path) -> None:
    """In a mount namespace where Debian's ``/etc/alternatives`` has the tools of IPv4 alone."""
    interpreter = tmp_path / "python3"
    interpreter.write_text(ONLY_IPV4)
    interpreter.chmod(0o755)
    with Namespace(f"l4info{os.getpid()}") as namespace:
        run_module_ok(namespace, "vip_service", {"services": [WEB]})
        result = run_module_ok(namespace, "service_proxy_info", {}, interpreter=str(interpreter))
    found = result["dataplanes"]["iptables"]
    assert found["services"][0]["vip"] == ["10.96.0.1"]
    assert found["unreadable"] == {"ip6tables": "ip6tables: is not installed on this host"}
