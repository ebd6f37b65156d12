# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module `vip_service` on real tables: what it changes, what it predicts, and what it leaves alone."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from nat_host import generation, script

from lab.namespaces import Namespace
from module_runner import MANAGED_HOST_PYTHON, legacy_path, run_module

TOOLS = {"nft": "xtables-nft-multi", "legacy": "xtables-legacy-multi"}
FAMILIES = ("iptables", "ip6tables")
NODE = {"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24", "fd00:1::/64"]}

FOREIGN = """\
*mangle
-A PREROUTING -i eth9 -j MARK --set-xmark 0x1/0xff
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:INPUT_direct - [0:0]
:INPUT_ZONES - [0:0]
:IN_public - [0:0]
:L4X-OTHER - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -j INPUT_direct
-A INPUT -j INPUT_ZONES
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -m comment --comment "by hand: \\"quoted\\" -j L4-FORWARD" -j L4X-OTHER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-A INPUT_ZONES -g IN_public
-A IN_public -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
-A L4X-OTHER -j RETURN
COMMIT
"""
FOREIGN6 = re.sub(r"^.*172\.17\..*\n", "", FOREIGN, flags=re.MULTILINE).replace("127.0.0.0/8", "::1/128")


class Host:
    """A namespace with one variant of iptables."""

    def __init__(self, namespace: Namespace, kind: str) -> None:
        self.namespace, self.kind = namespace, kind
        self.path_prefix = legacy_path() if kind == "legacy" else None

    def run(self, services: list[Any], check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"services": services, "node": NODE, **options}
        prefix = options.pop("path_prefix", None) or self.path_prefix
        arguments.pop("path_prefix", None)
        return run_module(self.namespace, "vip_service", arguments, check=check, path_prefix=prefix)

    def apply(self, services: list[Any], **options: Any) -> dict[str, Any]:
        result = self.run(services, **options)
        assert not result.get("failed"), result.get("msg")
        return result

    def tool(self, name: str, *arguments: str, text: str | None = None) -> str:
        return self.namespace.run(TOOLS[self.kind], name, *arguments, input=text).stdout

    def saved(self) -> str:
        """Everything of both families, without policy counters."""
        text = "".join(self.tool(f"{family}-save") for family in FAMILIES)
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        return re.sub(r" \[\d+:\d+\]$", "", text, flags=re.MULTILINE)

    def rules(self) -> set[str]:
        """Rules of both families, each with its family and table."""
        found, table = set(), ""
        for family in FAMILIES:
            for line in self.tool(f"{family}-save").splitlines():
                if line.startswith("*"):
                    table = line
                elif line.startswith("-A "):
                    found.add(f"{family} {table} {line}")
        return found


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Namespace(f"l4vs{os.getpid()}{worker}") as namespace:
        yield Host(namespace, request.param)


def every_kind_of_service() -> list[dict[str, Any]]:
    """Protocols, policies, backend states, both families, all kinds of addresses, in every combination."""
    services = []
    combinations = itertools.product(("tcp", "udp", "sctp"), ("cluster", "local"), ("cluster", "local"), range(4))
    for number, (protocol, internal, external, state) in enumerate(combinations, 1):
        backends = [
            {"address": address, "port": 8080, "node": node, "weight": weight, "ready": state != 3, "serving": True}
            for address, node, weight in (
                ("10.0.0.11", "node1", 1),
                ("10.0.1.11", "node2", 3),
                ("fd00:1::11", "node1", 1),
                ("fd00:2::11", "node2", 65535),
                ("fd00:3::11", "node2", 1),
            )
        ]
        services.append(
            {
                "name": f"s{number}",
                "vip": [f"10.96.0.{number}", f"fd96::{number:x}"],
                "port": 80,
                "protocol": protocol,
                "backends": [] if state == 0 else [one for one in backends if state != 1 or one["node"] == "node2"],
                "node_port": 30000 + number,
                "external_ips": [f"203.0.113.{number}", f"2001:db8:113::{number:x}"],
                "load_balancer_ips": [f"198.51.100.{number}", f"2001:db8:51::{number:x}"],
                "source_ranges": ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8"][: number % 5],
                "internal_traffic_policy": internal,
                "external_traffic_policy": external,
            }
        )
    return services


SETTINGS = [
    {},
    {"masquerade_mark": "0x200/0x200", "snat_address": "192.0.2.1", "node_port_addresses": ["10.0.0.0/8", "fd00::/8"]},
    {"masquerade_mark": "0x1/0xffffffff", "snat_address": "2001:db8::1", "localhost_node_ports": True},
    {"masquerade_all": True, "chain_prefix": "KUBEKUBE", "node_port_addresses": ["0.0.0.0/0", "::/0"]},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_kernel_holds_what_was_compiled_to_the_letter(host: Host, settings: dict[str, Any]) -> None:
    """So a second run changes nothing, and the diff is what happened."""
    services, node = every_kind_of_service(), {**NODE, **settings}
    before = host.rules()
    predicted = host.run(services, node=node, check=True)
    result = host.apply(services, node=node)
    assert result["diff"] == predicted["diff"]
    assert (result["added"], result["changed"]) == (predicted["added"], True)
    assert len(result["added"]) == len(services)
    shown = {line for line in result["diff"]["after"].splitlines() if line.startswith("-A ")}
    assert shown == {rule.split(" ", 2)[2] for rule in host.rules() - before}
    again = host.apply(services, node=node, exclusive=True)
    assert not again["changed"]
    assert again["diff"] == {"before": "", "after": ""}


def test_services_come_and_go_one_by_one_as_if_all_were_given_at_once(host: Host) -> None:
    services = every_kind_of_service()[:20]
    host.apply(services, exclusive=True)
    at_once = host.saved()
    host.apply([], state="absent", exclusive=True)
    for service in reversed(services):
        host.apply([service])
    assert host.saved() == at_once
    odd = [service for service in services if int(service["name"][1:]) % 2]
    host.apply([{"name": service["name"]} for service in odd], state="absent")
    rest = host.saved()
    host.apply([service for service in services if service not in odd], exclusive=True)
    assert host.saved() == rest


def test_an_absent_service_that_is_not_there_changes_nothing(host: Host) -> None:
    host.apply(every_kind_of_service()[:2])
    assert not host.apply([{"name": "nobody"}], state="absent")["changed"]


def test_check_mode_leaves_the_ruleset_generation_as_it_is(host: Host) -> None:
    host.tool("iptables-restore", "--noflush", text=FOREIGN)
    before = generation(host.namespace), host.rules()
    assert host.run(every_kind_of_service(), check=True)["changed"]
    assert (generation(host.namespace), host.rules()) == before


def test_foreign_rules_are_the_same_to_the_byte(host: Host) -> None:
    for family, text in zip(FAMILIES, (FOREIGN, FOREIGN6)):
        host.tool(f"{family}-restore", "--noflush", text=text)
    before = host.saved()
    services = every_kind_of_service()

    def foreign() -> str:
        lines = host.saved().splitlines(keepends=True)
        return "".join(line for line in lines if not re.search(r"^:L4-|^-A L4-|-j L4-[A-Z]+$", line))

    for turn in (services, services[:5], services[3:], []):
        host.apply(turn, exclusive=True)
        assert foreign() == before
    host.apply(services)
    host.apply([], state="absent", exclusive=True)
    assert host.saved() == before


DAMAGE = [
    "-t nat -F L4-SERVICES",
    "-t nat -D PREROUTING 1",
    "-t nat -I L4-SERVICES 1 -p tcp -m tcp --dport 80 -j RETURN",
    "-t nat -A L4-MARK-MASQ -j RETURN",
    "-t filter -F L4-FIREWALL",
    "-t filter -D FORWARD 1",
    "-t nat -F POSTROUTING",
    "-t nat -A OUTPUT -m comment --comment again -j L4-SERVICES",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_others_did_to_our_chains_is_repaired(host: Host, damage: str) -> None:
    services = every_kind_of_service()[:6]
    host.apply(services)
    whole = host.saved()
    for family in FAMILIES:
        host.tool(family, *damage.split())
    assert host.saved() != whole
    repaired = host.apply(services, exclusive=True)
    assert repaired["changed"]
    assert repaired["added"] == repaired["removed"] == []
    assert host.saved() == whole


def test_a_service_whose_chain_was_emptied_is_repaired_in_a_run_of_its_own(host: Host) -> None:
    services = every_kind_of_service()[1:3]
    host.apply(services)
    whole = host.saved()
    chain = re.search(r"L4-SVC-\w+", whole)
    assert chain
    host.tool("iptables", "-t", "nat", "-F", chain.group(0))
    for service in services:
        host.apply([service])
    assert host.saved() == whole


def test_a_service_that_stays_keeps_what_it_has_taken(host: Host) -> None:
    """A run that does not name a service still cannot take its addresses, ports or node port from it."""
    host.apply([{"name": "one", "vip": "10.96.0.1", "port": 80, "node_port": 30080, "external_ips": ["203.0.113.1"]}])
    before = host.saved()
    for taken in ({"vip": "10.96.0.1"}, {"external_ips": "203.0.113.1"}, {"node_port": 30080}):
        refused = host.run([{"name": "two", "port": 80, **taken}])
        assert refused["failed"]
        assert '"one"' in refused["msg"]
        assert '"two"' in refused["msg"]
        assert host.saved() == before
    host.apply([{"name": "two", "vip": "10.96.0.1", "port": 80}], exclusive=True)


def test_if_the_second_family_fails_the_first_is_put_back(host: Host, tmp_path: Path) -> None:
    services = every_kind_of_service()
    host.apply(services[:3])
    before = host.saved()
    multi = Path(f"/usr/sbin/{TOOLS[host.kind]}")
    for family in FAMILIES:
        for tool in ("", "-save", "-restore"):
            script(tmp_path, family + tool, f'exec {multi} {family}{tool} "$@"')
    script(tmp_path, "ip6tables-restore", "echo 'ip6tables-restore: line 3 failed' >&2", "exit 1")
    failed = host.run(services, path_prefix=str(tmp_path))
    assert failed["failed"]
    assert "ip6tables" in failed["msg"]
    assert host.saved() == before


def test_wrong_input_touches_nothing(host: Host) -> None:
    host.apply(every_kind_of_service()[:2])
    before = host.saved(), generation(host.namespace)
    wrong: list[dict[str, Any]] = [
        {"services": [{"name": "x", "port": 0, "vip": "10.96.0.1"}]},
        {"services": [{"name": "x", "port": 80, "vip": "10.96.0.1", "sesion_affinity": "none"}]},
        {"services": [*every_kind_of_service(), {"name": "S", "port": 80, "vip": "10.96.9.9"}]},
        {"services": [], "node": {"masquerade_mark": "x"}},
        {"services": [], "dataplane": "userspace"},
        {"services": "web"},
        {"services": [], "state": "latest"},
    ]
    for arguments in wrong:
        refused = host.run(**arguments)
        assert refused["failed"], arguments
        assert len(refused["msg"].splitlines()) == 1, refused["msg"]
    assert (host.saved(), generation(host.namespace)) == before


def test_updated_names_what_changed_and_nothing_else(host: Host) -> None:
    services = every_kind_of_service()[:8]
    host.apply(services)
    changed = [
        {**services[2], "backends": []},
        *services[3:],
        {**services[0], "name": "new", "port": 81, "node_port": 31000},
    ]
    result = host.apply(changed, exclusive=True)
    assert result["added"] == ["new"]
    assert result["removed"] == ["s1", "s2"]
    assert result["updated"] == ["s3"]


@pytest.mark.parametrize("settings", [{"local_cidrs": []}, {"local_cidrs": [], "masquerade_all": True}])
def test_a_service_that_stays_keeps_the_chains_that_it_needs(host: Host, settings: dict[str, Any]) -> None:
    """Even when the node's settings of a run for another service would do without them."""
    services = [
        {"name": name, "vip": f"10.96.0.{n}", "port": 80, "backends": [{"address": "10.0.0.11"}]}
        for n, name in enumerate(("stays", "comes"), 1)
    ]
    host.apply(services[:1])
    kept = {rule for rule in host.rules() if '"stays: ' in rule}
    host.apply(services[1:], node={**NODE, **settings})
    assert kept <= host.rules()
    assert not host.apply(services[1:], node={**NODE, **settings})["changed"]
    host.apply(services, exclusive=True, node={**NODE, **settings})
    host.apply([], state="absent", exclusive=True)
    assert "L4-" not in host.saved()


def test_runs_at_the_same_time_lose_nothing(host: Host) -> None:
    """As of a timer's ansible-pull and of somebody at a controller: what one has seen must still be so when it changes rules."""
    names = [f"web{number}" for number in range(12)]
    every = {
        name: {"name": name, "vip": f"10.96.1.{at}", "port": 80, "backends": [{"address": "10.0.0.11"}]}
        for at, name in enumerate(names, 1)
    }

    def run(name: str) -> dict[str, Any]:
        arguments = {"services": [every[name]], "node": NODE}
        by_itself = os.path.realpath(MANAGED_HOST_PYTHON)
        return run_module(host.namespace, "vip_service", arguments, path_prefix=host.path_prefix, interpreter=by_itself)

    with ThreadPoolExecutor(4) as at_the_same_time:
        results = list(at_the_same_time.map(run, names))
    assert [one.get("added") for one in results] == [[name] for name in names]
    assert not host.apply(list(every.values()), exclusive=True)["changed"]
