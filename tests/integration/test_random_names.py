# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and comments of any characters, of others and of ours, through site.yml, a boot and the removal: none is executed or lost.

More of them, and others: ``L4_RANDOM_NAMES=1000 L4_RANDOM_SEED=7 pytest tests/integration/test_random_names.py``.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from worlds import World, differences

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import quote
from playbooks import SITE, Controller

COUNT = int(os.environ.get("L4_RANDOM_NAMES", "60"))
SEED = int(os.environ.get("L4_RANDOM_SEED", "14"))
PIECES = [
    *"\"'\\`$!*#;&|<>(){}[]~?^=,.:@+-_",
    *map(chr, range(1, 33)),
    *"\x7f\x85\u00a0\u2028\u2029\ufeff\ufffe\u0301\u202e\u00e9",
    *("`>PWNED`", "$(id>PWNED)", "';>PWNED;'", "\\n", "\\x41", "\\u0041", "{{7*7}}", "${HOME}", "&&", "0"),
    *("-A L4-SERVICES -j ACCEPT", "\nCOMMIT\n*nat\n", '" -j DROP --comment "', "COMMIT", "web: ", "L4-SERVICES"),
]
PROGRAM = "/usr/local/sbin/layer4-service-proxy"
SERVICE = {
    "name": "web",
    "vip": "10.9.9.9",
    "port": 80,
    "backends": [{"address": "10.0.0.11", "port": 8080, "node": "node1"}],
}
WITHOUT_SBIN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def draw(chance: random.Random, most: int, fits: Callable[[str], bool]) -> str:
    """A text of 1 to so many bytes that fits; one character of two is of any plane of Unicode."""
    length = chance.randint(1, most)
    while True:
        text = ""
        while len(text.encode()) < length:
            text += chance.choice(PIECES) if chance.random() < 0.5 else _any_character(chance)
        while len(text.encode()) > most:
            text = text[:-1]
        if text and fits(text):
            return text


def _any_character(chance: random.Random) -> str:
    found = 0xD800
    while 0xD800 <= found < 0xE000:
        found = chance.randrange(17) << 16 | chance.randrange(1, 0x10000)
    return chr(found)


def fits_a_link(text: str) -> bool:
    """What the kernel takes (``dev_valid_name``); % makes it a pattern."""
    return text not in (".", "..") and not set(text.encode()) & set(b"/:% \t\n\v\f\r\xa0") and text[0] != "-"


def fits_a_chain(text: str) -> bool:
    return text[0] not in "-!" and not set(text.encode()) & set(b" \t\n\v\f\r")


def fits_a_set(text: str) -> bool:
    """Of others; some characters mean something to ipset itself, and a line break ends its lines."""
    return text[0] != "-" and not set(text) & set('\n" ,')


def printed(text: str) -> str:
    """The part of it that a user may give."""
    return "".join(one for one in text if one >= " " and one != "\x7f") or "web"


class Odd(World):
    """A node full of names and comments of anybody."""

    def build(self) -> None:
        self.chance = random.Random(SEED)
        self.bridge("br0", "10.0.0.1", {"b1": "10.0.0.11"})
        self.node.run("mkdir", "-p", "/etc/udev/rules.d")
        self.ports = self.names(COUNT // 10, 15, fits_a_link)
        self.bridges = self.names(COUNT // 10, 15, lambda text: fits_a_link(text) and text not in self.ports)
        for name in self.bridges:
            self.node.run("ip", "link", "add", name, "type", "bridge")
            self.node.run("ip", "address", "add", "10.0.0.2/24", "dev", name)
            self.node.run("ip", "link", "set", name, "up")
        for number, name in enumerate(self.ports):
            self.node.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"peer{number}")
            self.node.run("ip", "link", "set", name, "master", "br0")
        self.chains = self.names(COUNT // 10, 28, fits_a_chain)
        self.sets = self.names(COUNT // 10, 31, fits_a_set)
        self.comments = self.names(COUNT // 3, 255, bool)
        self.own = [printed(text) for text in self.names(COUNT // 5, 255, bool)]
        for name in self.sets:
            self.node.run("ipset", "create", name, "hash:ip", "comment")
            self.node.run("ipset", "add", name, "192.0.2.9", "comment", draw(self.chance, 60, fits_a_set))
        self.set_odd_rules()
        self.set_odd_tables()

    def names(self, count: int, most: int, fits: Callable[[str], bool]) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            found[draw(self.chance, most, fits)] = None
        return list(found)

    def set_odd_rules(self) -> None:
        """By arguments, as others do; where it is for all planes, in chains of ours' neighbours too."""
        commands = [["-N", name] for name in self.chains]
        commands += [["-A", "FORWARD", "-s", "192.0.2.7", "-j", name] for name in self.chains]
        commands += [["-A", "FORWARD", "-m", "set", "--match-set", name, "src", "-j", "RETURN"] for name in self.sets]
        commands += [["-A", "OUTPUT", "-m", "comment", "--comment", text, "-j", "RETURN"] for text in self.comments]
        commands += [["-A", "FORWARD", "-o", name, "-s", "192.0.2.8", "-j", "RETURN"] for name in self.bridges]
        for command in commands:
            self.node.run("iptables", *command)

    def set_odd_tables(self) -> None:
        """What others have in nftables: a table for each comment, which has at most 127 bytes there."""
        for number, text in enumerate(self.comments):
            comment = "".join(one for one in text if one not in '"\n')[:30]
            rule = f'ip daddr 192.0.2.66 drop comment "{comment}"'
            table = f"table ip theirs{number} {{ chain other {{\ntype filter hook output priority 7;\n{rule}\n}}\n}}\n"
            self.node.run("nft", "--file", "-", input=table)

    def bytes_of(self, *argv: str) -> bytes:
        entered = ["nsenter", f"--net=/run/netns/{self.node.name}", f"--mount={self.node.view}/mnt", "--", *argv]
        return subprocess.run(entered, check=True, capture_output=True).stdout

    def of_others(self) -> list[bytes]:
        """Rules, sets, links and tables, to the byte, counters aside."""
        script = r"""
            iptables-save -t filter | sed 's/\[[0-9]*:[0-9]*\]$//; /^#/d' | grep -a -v -e 'L4-[A-Z]*$' -e '^-A L4-' -e '^:L4-'
            ipset save
            ip -oneline link show | sed 's/qlen.*//'
            for table in $(nft list tables | grep -o 'theirs.*'); do nft --stateless list table ip "$table"; done
        """
        return self.bytes_of("sh", "-c", script).split(b"\n")

    def ours(self) -> list[str]:
        """Our rules, in the tables of iptables and in those of nftables."""
        rules = [
            line for line in self.node.run("iptables-save").stdout.splitlines() if "L4-" in line and line[0] == "-"
        ]
        for table in self.tables_of_ours():
            rules += self.node.run("nft", "--stateless", "list", *table).stdout.splitlines()
        return rules

    def tables_of_ours(self) -> list[list[str]]:
        tables = self.node.run("nft", "list", "tables").stdout.splitlines()
        return [line.split() for line in tables if "l4-service-proxy" in line]

    def remove_tables_of_ours(self) -> None:
        for table in self.tables_of_ours():
            self.node.run("nft", "delete", *table)

    def hairpins(self) -> set[bytes]:
        """The modes of the ports of br0."""
        return set(self.bytes_of("sh", "-c", "cat /sys/class/net/br0/brif/*/hairpin_mode").split())


@pytest.fixture
def world() -> Iterator[Odd]:
    with Odd() as made:
        yield made


class Unsafe(str):
    """A text of a play that is no template, whatever it looks like."""

    __slots__ = ()


class Dumper(yaml.SafeDumper):
    """With `Unsafe`."""


Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"'))


def with_own_comments(world: Odd, directory: Path) -> Path:
    """site.yml, and rules and entries with comments of ours, twice."""
    rules = [Unsafe(f"-m comment --comment {quote(text)} -j RETURN") for text in world.own]
    # Behind a letter: Ansible takes some single characters behind !unsafe for tags of YAML.
    comments = ["c" + "".join(one for one in text if one.isprintable() and one != '"')[:60] for text in world.own[:250]]
    entries = [{"entry": f"192.0.2.{number + 1}", "comment": Unsafe(text)} for number, text in enumerate(comments)]
    tasks: list[dict[str, Any]] = [
        {"layer4.service_proxy.nat_chain": {"chain": "OWN", "table": "filter", "rules": rules}},
        {"layer4.service_proxy.ipset_entry": {"set": "own", "type": "hash:ip", "comment": True, "entries": entries}},
    ]
    again = [{**task, "name": "Again"} for task in tasks]
    path = directory / "plays.yml"
    own = {"hosts": "all", "gather_facts": False, "tasks": [*tasks, *again]}
    path.write_text(yaml.dump([{"import_playbook": str(SITE)}, own], Dumper=Dumper, allow_unicode=False))
    return path


@pytest.mark.parametrize("dataplane", ["iptables", "nftables"])
def test_no_name_is_executed_and_none_is_lost(world: Odd, tmp_path: Path, dataplane: str) -> None:
    node, controller = world.node, Controller(tmp_path)
    variables = {
        "service_proxy_dataplane": dataplane,
        "service_proxy_local_cidrs": ["10.0.0.0/24"],
        "service_proxy_services": [SERVICE],
    }
    controller.inventory({"node1": node}, variables)
    found, theirs = world.snapshot(), world.of_others()
    assert world.hairpins() == {b"0"}
    changed = [task for task, _host, _diff in controller.run(with_own_comments(world, tmp_path)).changes]
    assert changed[-2:] == ["layer4.service_proxy.nat_chain", "layer4.service_proxy.ipset_entry"]
    assert "Again" not in changed
    for argv in (("iptables", "-F", "OWN"), ("iptables", "-X", "OWN"), ("ipset", "destroy", "own")):
        node.run(*argv)
    ours = world.ours()
    assert ours
    assert (world.of_others(), world.hairpins()) == (theirs, {b"1"})
    roles = [
        {"include_role": {"name": f"layer4.service_proxy.{role}"}} for role in ("node", "bridge", "backend", "proxy")
    ]
    assert controller.run(controller.play(roles, environment=WITHOUT_SBIN)).changed == 0

    for table in ("nat", "filter"):
        node.run("iptables", "-t", table, "-F")
        node.run("iptables", "-t", table, "-X")
    world.remove_tables_of_ours()
    assert world.ours() == []
    world.set_rules_of_others()
    world.set_odd_rules()
    for port in world.ports:
        node.run("ip", "link", "set", port, "nomaster")
        node.run("ip", "link", "set", port, "master", "br0")
    assert (world.of_others(), world.hairpins()) == (theirs, {b"0", b"1"})
    restored = node.run(PROGRAM, "boot", "restore", env=WITHOUT_SBIN)
    assert (restored.stdout, restored.stderr) == ("", "")
    node.run("/usr/bin/python3", "-I", f"{PROGRAM}-bridges")
    assert world.ours() == ours
    assert (world.of_others(), world.hairpins()) == (theirs, {b"1"})

    controller.run(SITE, service_proxy_state="absent")
    assert (world.of_others(), world.hairpins()) == (theirs, {b"0"})
    assert differences(world.snapshot(), found) == []
    written = node.run("ls", "-a", "/", "/tmp", "/root").stdout.split()
    assert "PWNED" not in {*written, *os.listdir(tmp_path), *os.listdir(".")}
