# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The script that saves our rules and restores them at boot, on both back ends of iptables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from module_runner import COLLECTION, legacy_path

SCRIPT = COLLECTION / "roles" / "node" / "files" / "rules.sh"
RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:L4-BRIDGE - [0:0]
-A FORWARD -m comment --comment "L4 bridges" -j L4-BRIDGE
-A FORWARD -i eth9 -j ACCEPT
-A L4-BRIDGE -i br0 -o br0 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:FOREIGN - [0:0]
:L4-BACKEND - [0:0]
:L4-SERVICES - [0:0]
:L45-OTHER - [0:0]
-A PREROUTING -m comment --comment "L4 services" -j L4-SERVICES
-A OUTPUT -p udp -j ACCEPT
-A OUTPUT -j L4-SERVICES
-A POSTROUTING -m comment --comment "not a jump: -j L4-SERVICES" -j FOREIGN
-A POSTROUTING -j L4-BACKEND
-A L4-BACKEND -m comment --comment "says \\"-j NOTHING\\"" -j RETURN
-A L4-SERVICES -d 10.9.9.9/32 -p tcp -m tcp --dport 80 -j L4-BACKEND
-A L45-OTHER -j RETURN
COMMIT
"""
OURS = re.compile(r"^-A L4-|-j L4-\w+$")


class Rules:
    """A namespace with rules, and the script's directory."""

    def __init__(self, namespace: Namespace, directory: Path, path_prefix: str | None) -> None:
        self._namespace, self._directory = namespace, directory
        self._path = f"{path_prefix}:{os.environ['PATH']}" if path_prefix else os.environ["PATH"]
        self.file = directory / "iptables.rules"

    def run(self, *argv: str, text: str | None = None) -> str:
        return self._namespace.run(*argv, env={"PATH": self._path}, input=text).stdout

    def script(self, action: str, *gone: str) -> set[str]:
        """What it says, but for whether systemd runs on this machine."""
        return set(self.run("sh", str(SCRIPT), action, "L4", str(self._directory), *gone).split()) - {"systemd"}

    def held(self, *, ours: bool) -> list[str]:
        """Rules in their order, those that carry our prefix or the others."""
        lines = [line for line in self.run("iptables-save").splitlines() if line.startswith("-A")]
        return [line for line in lines if (OURS.search(line) is not None) == ours]


@pytest.fixture(params=["nft", "legacy"])
def rules(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rules]:
    legacy = legacy_path() if request.param == "legacy" else None
    with Namespace(f"l4boot{os.getpid()}") as namespace:
        made = Rules(namespace, tmp_path / "kept", legacy)
        made.run("iptables-restore", text=RULES)
        yield made


def test_what_is_saved_once_is_saved(rules: Rules) -> None:
    assert rules.script("save") == {"kept", "changed"}
    assert rules.script("save") == {"kept"}


def test_what_was_saved_in_a_state_is_not_read_again(rules: Rules) -> None:
    state = ("", "0 0 0", "boot-1 7")
    assert rules.script("save", *state) == {"changed", "kept"}
    saved = rules.file.read_text()
    rules.run("iptables", "-t", "nat", "-A", "L4-SERVICES", "-j", "L4-BACKEND")
    assert rules.script("save", *state) == rules.script("compare", *state) == {"kept"}
    assert rules.file.read_text() == saved
    assert rules.script("compare", "", "0 0 0", "boot-1 8") == {"changed", "kept"}
    rules.file.write_text(saved.replace("10.9.9.9", "10.9.9.8"))
    assert rules.script("save", *state) == {"changed", "kept"}
    assert "-j L4-BACKEND\n-A L4-SERVICES -j L4-BACKEND" in rules.file.read_text()
    assert rules.script("save", *state) == {"kept"}


@pytest.mark.parametrize("other", [("", "0 0 0", "boot-2 7"), ("", "900 0 0", "boot-1 7"), ("", "0 0 0", ""), ()])
def test_in_any_other_state_all_is_read(rules: Rules, other: tuple[str, ...]) -> None:
    rules.script("save", "", "0 0 0", "boot-1 7")
    rules.run("iptables", "-t", "nat", "-A", "L4-SERVICES", "-j", "L4-BACKEND")
    assert "changed" in rules.script("save", *other)
    rules.run("iptables", "-t", "nat", "-A", "L4-SERVICES", "-j", "RETURN")
    assert "changed" in rules.script("save", "", "0 0 0", "boot-1 7")


def test_to_compare_writes_nothing(rules: Rules) -> None:
    assert rules.script("compare") == {"kept", "changed"}
    assert not rules.file.parent.exists()


def test_only_ours_are_saved(rules: Rules) -> None:
    rules.script("save")
    assert not any(foreign in rules.file.read_text() for foreign in ("FOREIGN", "eth9", "L45", "udp"))


def test_all_come_back_where_they_were(rules: Rules) -> None:
    before = rules.held(ours=True)
    rules.script("save")
    for table in ("nat", "filter"):
        rules.run("iptables", "-t", table, "-F")
        rules.run("iptables", "-t", table, "-X")
    rules.script("restore")
    assert rules.held(ours=True) == before


def test_to_restore_what_is_there_repairs_it_and_leaves_the_rest(rules: Rules) -> None:
    ours, others = rules.held(ours=True), rules.held(ours=False)
    rules.script("save")
    rules.run("iptables", "-t", "nat", "-F", "L4-SERVICES")
    rules.run("iptables", "-t", "nat", "-D", "PREROUTING", "1")
    for _again in range(2):
        rules.script("restore")
        assert rules.held(ours=False) == others
        assert sorted(rules.held(ours=True)) == sorted(ours)


def test_a_jump_behind_other_rules_stays_behind_them(rules: Rules) -> None:
    rules.script("save")
    rules.run("iptables", "-t", "nat", "-D", "OUTPUT", "2")
    rules.script("restore")
    assert rules.run("iptables", "-t", "nat", "-S", "OUTPUT").splitlines()[1:] == [
        "-A OUTPUT -p udp -j ACCEPT",
        "-A OUTPUT -j L4-SERVICES",
    ]


def test_what_would_be_gone_is_foretold(rules: Rules) -> None:
    rules.script("save")
    assert rules.script("compare", "BRIDGE") == {"kept", "changed"}
    assert rules.script("compare", "BRIDGE BACKEND SERVICES") == {"changed"}
    assert rules.script("compare") == {"kept"}


def test_when_nothing_is_left_nothing_is_kept(rules: Rules) -> None:
    rules.script("save")
    for table in ("nat", "filter"):
        rules.run("iptables", "-t", table, "-F")
        rules.run("iptables", "-t", table, "-X")
    assert rules.script("save") == {"changed"}
    assert not rules.file.parent.exists()
    assert rules.script("save") == set()


def test_the_sets_of_clients_come_back_before_the_rules_that_use_them(rules: Rules) -> None:
    name = "L4-AFF-ABCDEFGHIJKLMNO"
    rules.run("ipset", "create", name, "hash:ip", "timeout", "600")
    rules.run("ipset", "add", name, "192.0.2.1")
    rules.run("ipset", "create", "FOREIGN", "hash:ip")
    rules.run("iptables", "-t", "nat", "-A", "L4-SERVICES", "-m", "set", "--match-set", name, "src", "-j", "RETURN")
    before = rules.held(ours=True)
    assert rules.script("save") == {"kept", "changed"}
    clients = "".join(f"add {name} 198.51.{n // 250}.{n % 250 + 1}\n" for n in range(5000))
    rules.run("ipset", "restore", text=clients)
    assert rules.script("save") == {"kept"}, "a set that has grown is the same set"
    assert rules.script("compare", "BRIDGE BACKEND SERVICES") == {"changed"}
    for table in ("nat", "filter"):
        rules.run("iptables", "-t", table, "-F")
        rules.run("iptables", "-t", table, "-X")
    rules.run("ipset", "destroy")
    for _again in range(2):
        rules.script("restore")
        assert rules.held(ours=True) == before
        assert rules.run("ipset", "list", "-n").split() == [name]
