# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services and the roles bridge and backend share tables of nftables: each makes and removes what is its own, in any order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.dataplane import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.own_tables import OwnTables
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_files, boot_nftables, tools
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_parts import tables_part
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.nft_rules import backend_tables, bridge_tables
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Bridge, Settings
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Flowtable, Table
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_parts import (
    TABLES,
    is_of,
    is_of_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import table_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import plan_tables
from ansible_collections.layer4.service_proxy.tests.unit.fake_nftables import FakeNftables

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"], "local_cidrs": ["10.0.0.0/16"]})
BACKENDS = [{"address": f"10.0.0.{last}"} for last in range(1, 40)]
SERVICES = [
    {"name": f"web{number}", "vip": f"10.9.9.{number}", "port": 80, "backends": BACKENDS} for number in range(40)
]
SETTINGS = Settings({**DEFAULTS, "state": "present", "local_cidrs": ["10.0.0.0/16", "10.0.7.0/24", "fd00::/64"]})
BRIDGES = [Bridge("br0", "promiscuous", ()), Bridge("br1", "hairpin", ())]


def _services(node: Node = NODE) -> dict[str, Table]:
    dataplane = Nftables()
    compiled = dataplane.compile(parse_services(SERVICES, node, dataplane.problems), node)
    return dict(dataplane.render(compiled, node).nftables)


PARTS: dict[str, Any] = {
    "services": (is_of_services, _services()),
    "bridge": (is_of("bridge"), bridge_tables(BRIDGES)),
    "backend": (is_of("backend"), backend_tables(SETTINGS, ["10.0.0.3", "fd00::3"])),
}


def _converge(nft: FakeNftables, part: str, present: bool = True) -> bool:
    """Make a part as a run does; whether anything has changed."""
    is_own, tables = PARTS[part]
    own = OwnTables(is_own, lambda: nft)  # type: ignore[arg-type,return-value]
    wanted = {TABLES[family]: table for family, table in tables.items()} if present else {}
    plan = plan_tables(wanted, own.read()[0])
    own.apply(plan)
    return plan.changed


def _whole(*parts: str) -> dict[Any, Table]:
    nft = FakeNftables()
    for part in parts:
        _converge(nft, part)
    return nft.tables(TABLES.values())[0]


@pytest.mark.parametrize("order", list(permutations(PARTS)), ids="-".join)
def test_parts_come_and_go_in_any_order(order: tuple[str, ...]) -> None:
    nft = FakeNftables()
    for part in order:
        assert _converge(nft, part)
    assert not any(_converge(nft, part) for part in PARTS)
    for done, part in enumerate(order, 1):
        assert _converge(nft, part, present=False)
        assert nft.tables(TABLES.values())[0] == _whole(*order[done:])
    assert nft.dump() == ""


def test_undoing_a_removal_brings_back_what_others_have_left_beside() -> None:
    nft = FakeNftables()
    for part in PARTS:
        _converge(nft, part)
    before = nft.tables(TABLES.values())[0]
    own = OwnTables(is_of_services, lambda: nft)  # type: ignore[arg-type,return-value]
    plan = plan_tables({}, own.read()[0])
    own.apply(plan)
    assert nft.tables(TABLES.values())[0] == _whole("bridge", "backend")
    own.apply(plan.undo())
    assert nft.tables(TABLES.values())[0] == before


def test_a_table_that_somebody_has_emptied_goes() -> None:
    nft = FakeNftables({TABLES["ipv4"]: Table(*TABLES["ipv4"], {}, {}, {})})
    assert _converge(nft, "services", present=False)
    assert nft.dump() == ""


def test_nothing_of_services_is_called_like_what_roles_have() -> None:
    names = {name for table in _services().values() for name in (*table.chains, *table.sets)}
    assert [name for name in names if not is_of_services(name)] == []


def test_the_rules_read_as_a_person_would_write_them() -> None:
    assert table_text(bridge_tables(BRIDGES)["ipv4"]).split("\n")[1:4] == [
        "\tchain bridge-forward {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        '\t\tiifname "br0" oifname "br0" ct state invalid drop comment "copies"',
    ]
    text = table_text(PARTS["backend"][1]["ipv4"])
    assert "elements = { 10.0.0.0/16 }" in text
    assert "elements = { 10.0.0.3 . 10.0.0.3 }" in text
    assert "type nat hook postrouting priority srcnat + 1; policy accept;" in text
    rules = [line.strip() for line in text.split("\n") if " comment " in line]
    assert rules == [
        'ip saddr . ip daddr @backend-hairpin masquerade fully-random comment "to itself"',
        'ip daddr @backend-local-cidrs return comment "not elsewhere"',
        'ip saddr @backend-cidrs ip daddr != 224.0.0.0/4 masquerade fully-random comment "to elsewhere"',
    ]


def test_what_is_not_wanted_has_no_table() -> None:
    assert bridge_tables(BRIDGES[1:]) == {}
    assert backend_tables(Settings({**SETTINGS.values, "state": "absent"}), ["10.0.0.3"]) == {}
    assert list(backend_tables(Settings({**SETTINGS.values, "backend_cidrs": ["fd00::/64"]}), [])) == ["ipv6"]
    assert tables_part({}) is None


@pytest.mark.parametrize("order", list(permutations(PARTS)), ids="-".join)
def test_the_files_of_all_parts_make_one_table(order: tuple[str, ...]) -> None:
    nft = FakeNftables()
    for part in order:
        content = boot_files.render(BootState(nftables=PARTS[part][1]))[boot_files.NFT["ipv4"]]
        for kind, _flags, payload in boot_nftables.decode(content):
            nft._take(kind, payload)
    assert nft.tables([TABLES["ipv4"]])[0] == {TABLES["ipv4"]: _whole(*PARTS)[TABLES["ipv4"]]}


def test_what_leads_to_flow_tables_is_in_a_file_of_its_own() -> None:
    nft = FakeNftables()
    for family, table in _services(NODE._replace(flow_offload=("eth1", "eth0", "eth1"))).items():
        files = boot_files.render(BootState(nftables={family: table}))
        assert sorted(files) == [boot_files.NFT[family], boot_files.OFFLOAD[family]]
        for name in files:
            for kind, _flags, payload in boot_nftables.decode(files[name]):
                nft._take(kind, payload)
            held = nft.tables([TABLES[family]])[0][TABLES[family]]
            assert (held == table) == (name == boot_files.OFFLOAD[family])
        assert held.flowtables == {"offloaded": Flowtable(0, ("eth0", "eth1"))}
        assert "flow add @offloaded" in table_text(table)


def test_boot_files_are_the_same_in_each_process() -> None:
    for table in _services().values():
        for name in ("hairpin", "service-addresses"):
            assert list(table.sets[name].elements) == sorted(table.sets[name].elements)


class Bare:
    """A host with none of some commands."""

    def __init__(self, *missing: str) -> None:
        self._missing = missing

    def find(self, tool: str) -> str | None:
        return None if tool in self._missing else f"/usr/sbin/{tool}"

    def run(self, dummy: object, stdin: str = "") -> tuple[int, str, str]:
        raise AssertionError(stdin)


def test_a_node_with_nftables_needs_neither_iptables_nor_ipset() -> None:
    settings = Settings({**DEFAULTS, "state": "present", "dataplane": "nftables"})
    bare = Bare("iptables", "ip6tables", "ipset", "nft", "conntrack", "ip")
    assert tools.missing_tools(settings, ["node"], bare) == ["conntrack", "ip", "nft"]
    assert tools.called_by_runs(tools.missing_tools(settings, ["node"], bare)) == ["ip"]
