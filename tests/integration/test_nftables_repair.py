# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever somebody changes by hand in our tables of nftables, the next run finds and puts right. SERVICE_PROXY_EDITS: how many edits."""

from __future__ import annotations

import os
import random
import re
from typing import Any

import pytest
from network import IPV4, IPV6, Network, backends, balancer_ip, external_ip, vip

EDITS = int(os.environ.get("SERVICE_PROXY_EDITS", "40"))
SEED = 20261128
TABLES = ("ip", "ip6")
NAME = "l4-service-proxy"

pytestmark = pytest.mark.parametrize("network", ["nftables"], indirect=True, scope="module")


def _services() -> list[dict[str, Any]]:
    both = backends("b11", "b12", "b21", family=IPV4) + backends("b11", "b21", family=IPV6)
    common = {"port": 80, "backends": both}
    return [
        {**common, "name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "node_port": 30080},
        {**common, "name": "sticky", "vip": [vip(2, IPV4), vip(2, IPV6)], "session_affinity": "client_ip"},
        {
            **common,
            "name": "guarded",
            "external_ips": [external_ip(3, IPV4)],
            "load_balancer_ips": [balancer_ip(3, IPV4), balancer_ip(3, IPV6)],
            "source_ranges": ["192.0.2.0/24"],
            "external_traffic_policy": "local",
        },
        {
            "name": "odd",
            "vip": vip(4, IPV4),
            "port": 80,
            "backends": [{**one, "weight": weight} for one, weight in zip(backends("b11", "b12"), (1, 977))],
        },
        {"name": "empty", "vip": vip(5, IPV6), "port": 80},
    ]


class _Editor:
    """Makes random edits with nft(8)."""

    def __init__(self, network: Network, chance: random.Random) -> None:
        self._node, self._chance = network.hosts["node1"], chance

    def edit(self) -> str:
        """Change something; what was changed, as the command."""
        while True:
            command = self._chance.choice([self._rule, self._element, self._flush, self._delete_rule])()
            if command and self._node.run("nft", "-f", "-", input=command + "\n", check=False).returncode == 0:
                return command

    def _listed(self, family: str) -> str:
        return self._node.run("nft", "-a", "list", "table", family, NAME).stdout

    def _family(self) -> str:
        return self._chance.choice(TABLES)

    def _rule(self) -> str:
        family = self._family()
        chain = self._chance.choice(re.findall(r"chain (\S+) \{", self._listed(family)))
        how = self._chance.choice(["add", "insert"])
        return f"{how} rule {family} {NAME} {chain} {self._chance.choice(['counter', 'accept', 'return', 'meta mark 7 drop'])}"

    def _delete_rule(self) -> str:
        family = self._family()
        chain, rules = self._chance.choice(
            re.findall(r"chain (\S+) \{[^\n]*\n(.*?)\n\t\}", self._listed(family), re.DOTALL)
        )
        handles = re.findall(r"# handle (\d+)", rules)
        return f"delete rule {family} {NAME} {chain} handle {self._chance.choice(handles)}" if handles else ""

    def _element(self) -> str:
        """Delete one, or give it other data or another comment."""
        family = self._family()
        sets = re.findall(r"(?:map|set) (\S+) \{[^\n]*\n(.*?)\n\t\}", self._listed(family), re.DOTALL)
        name, content = self._chance.choice(sets)
        found = re.search(r"elements = \{ (.*) \}", content, re.DOTALL)
        if not found or " expires " in found[1]:
            return ""
        element = " ".join(self._chance.choice(found[1].split(",")).split())
        deleted = f"delete element {family} {NAME} {name} {{ {element} }}"
        if " : " in element and self._chance.random() < 0.5:
            key = element.rpartition(" : ")[0]
            other = self._chance.choice(found[1].split(",")).rpartition(" : ")[2].strip()
            return f"{deleted}\nadd element {family} {NAME} {name} {{ {key} : {other} }}"
        return deleted

    def _flush(self) -> str:
        family = self._family()
        kind, name = self._chance.choice(re.findall(r"(chain|map|set) (\S+) \{", self._listed(family)))
        return f"flush {kind} {family} {NAME} {name}"


def test_edits_by_hand_are_found_and_put_right(network: Network) -> None:
    """Check mode tells of each what the run then does."""
    chance = random.Random(SEED)
    services = _services()
    network.applied(services)
    wanted = network.rules()
    editor, repaired = _Editor(network, chance), 0
    while repaired < EDITS:
        command = editor.edit()
        if network.rules() == wanted:
            continue  # the same data again, or what packets had made
        predicted = network.apply(services, check=True)
        result = network.applied(services)
        assert predicted["changed"], command
        assert result["changed"], command
        assert predicted["diff"] == result["diff"], command
        assert network.rules() == wanted, command
        repaired += 1
    assert not network.applied(services)["changed"]
