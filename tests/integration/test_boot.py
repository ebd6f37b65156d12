# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run keeps for boot, and what comes back of it, on both variants of iptables."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boot_host import (
    DIRECTORY,
    PROGRAM,
    RULES_OF_OTHERS,
    SET_ODD_RULES,
    BootHost,
    boot_host,
    keep,
    odd_texts,
    restore,
    service,
)
from repetition import repetition

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.nft_rules import bridge_tables
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import Bridge
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Table
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import TableId
from ansible_collections.layer4.service_proxy.tests.unit import nftables_samples
from lab.namespaces import Namespace

SETS = "create L4-AFF-ABCDEFGHIJKLMNO hash:ip family inet hashsize 64 maxelem 65536 timeout 600\n"
GIVEN: dict[str, Any] = {
    "services": [service(1), service(2)],
    "bridge": ["-i br0 -o br0 -j ACCEPT"],
    "more": {"sets": SETS},
}
OTHERS = """\
*filter
:THEIRS - [0:0]
-A FORWARD -i eth9 -m comment --comment "not a jump: -j L4-BRIDGE" -j ACCEPT
-A FORWARD -j THEIRS
COMMIT
*nat
-A OUTPUT -p udp -j ACCEPT
COMMIT
"""
FILES = [
    "bridge.iptables",
    "bridge.iptables.jumps",
    "services.ip6tables",
    "services.ip6tables.jumps",
    "services.ipset",
    "services.iptables",
    "services.iptables.jumps",
]


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[BootHost]:
    with boot_host(f"l4boot{os.getpid()}", request.param == "legacy") as made:
        made.run("iptables-restore", text=OTHERS)
        yield made


@pytest.fixture
def nft_host() -> Iterator[BootHost]:
    with boot_host(f"l4boot{os.getpid()}") as made:
        yield made


def _held(host: BootHost) -> list[list[str]]:
    return [host.held(tool) for tool in ("iptables", "ip6tables")]


def test_all_comes_back_where_it_was_and_once(host: BootHost) -> None:
    host.write(**GIVEN)
    before = _held(host)
    assert host.command("status").returncode == 0
    host.flush()
    host.run("iptables-restore", text=OTHERS)
    assert "does not stand" in host.command("status").stdout
    others = host.held(ours=False)
    for action in ("restore", "restore", "reload"):
        done = host.boot(action)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert _held(host) == before
        assert host.held(ours=False) == others
    assert "L4-AFF-ABCDEFGHIJKLMNO" in host.run("ipset", "list", "-n")
    assert host.command("status").returncode == 0


def test_what_was_edited_is_repaired(host: BootHost) -> None:
    host.write(**GIVEN)
    before = _held(host)
    host.run("iptables", "-t", "nat", "-F", "L4-SERVICES")
    host.run("iptables", "-t", "nat", "-D", "PREROUTING", "1")
    host.run("iptables", "-I", "FORWARD", "-j", "L4-BRIDGE")
    assert host.boot("reload").returncode == 0
    assert [sorted(one) for one in _held(host)] == [sorted(one) for one in before]


def test_the_same_again_makes_no_new_generation(host: BootHost) -> None:
    first = host.write(**GIVEN)
    assert first["changed"]
    assert "generation 1\n" in first["after"]
    files = host.files()
    again = host.write(**GIVEN)
    assert not again["changed"]
    assert again["before"] == again["after"] == ""
    assert host.files() == files


def test_check_mode_predicts_and_writes_nothing(host: BootHost) -> None:
    predicted = host.write(check=True, **GIVEN)
    assert not host.outside(DIRECTORY).exists()
    assert not host.outside(PROGRAM).exists()
    assert host.write(**GIVEN)["after"] == predicted["after"]
    changed = {**GIVEN, "services": [service(1)]}
    files = host.files()
    predicted = host.write(check=True, apply=False, **changed)
    assert host.files() == files
    done = host.write(apply=False, **changed)
    assert (done["before"], done["after"]) == (predicted["before"], predicted["after"])
    assert "services.iptables " in done["after"]
    assert "bridge" not in done["after"]


def test_parts_that_a_run_is_not_about_stay_as_they_are(host: BootHost) -> None:
    host.write(**GIVEN)
    files = host.files()
    host.write(services=[service(1)])
    after = host.files()
    assert after["bridge.iptables"] == files["bridge.iptables"]
    assert after["services.iptables"] != files["services.iptables"]
    host.write(gone=["services"])
    assert [name for name in host.files() if name.startswith("services")] == []
    host.write(gone=["bridge"])
    assert not host.outside(DIRECTORY).exists()
    assert not host.outside(PROGRAM).exists()
    assert not host.write(gone=["bridge", "services"])["changed"]


def test_the_ten_last_are_kept(host: BootHost) -> None:
    for number in range(12):
        host.write(services=[service(number)], apply=False)
    kept = host.command("generations").stdout.splitlines()
    assert [int(line.strip("* ").split()[0]) for line in kept] == list(range(3, 13))
    assert kept[-1].startswith("*")
    backends = "10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, [2001:db8:1::1]:80, [2001:db8:1::2]:80, [2001:db8:1::3]:80"
    assert host.command("diff", "3").stdout.splitlines() == [
        f"+ service-11  10.96.0.12, 2001:db8:96::b  80/tcp  -> {backends}",
        f"- service-2  10.96.0.3, 2001:db8:96::2  80/tcp  -> {backends}",
    ]
    assert "there is no generation 2 on this node: kept are 3, 4" in host.command("diff", "2").stderr


# Inside of the host, because what is written beneath a mounted overlay is not seen in it.
DAMAGES = {
    "truncated": 'truncate -s -20 "$1"',
    "changed": 'printf "\\1" | dd of="$1" bs=1 seek=20 conv=notrunc status=none',
    "missing": 'rm -r "$1"',
    "empty": 'rm -r "$1"; : > "$1"',
    "directory": 'rm -r "$1"; mkdir "$1"; touch "$1/inside"',
    "link": 'rm "$1"; ln -s /etc/hostname "$1"',
}


def _damage(host: BootHost, path: str, damage: str) -> None:
    host.run("sh", "-ec", DAMAGES[damage], "damage", path)


@pytest.mark.parametrize(
    "damage", ["truncated", "missing", "link", *(repetition(damage) for damage in ("changed", "empty", "directory"))]
)
def test_a_broken_file_keeps_no_other_from_coming_back(nft_host: BootHost, damage: str) -> None:
    nft_host.write(**GIVEN)
    before = _held(nft_host)
    for name in FILES:
        _damage(nft_host, f"{DIRECTORY}/current/{name}", damage)
        nft_host.flush()
        done = nft_host.boot()
        assert done.returncode == 1
        assert name in done.stderr, done.stderr
        if name == "services.ipset":
            assert _held(nft_host) == before
        else:
            family = "ip6tables" if "ip6tables" in name else "iptables"
            others = [one for tool, one in zip(("iptables", "ip6tables"), before) if tool != family]
            assert [nft_host.held(tool) for tool in ("iptables", "ip6tables") if tool != family] == others
        healed = nft_host.write(**GIVEN)
        assert any(name in line for line in healed["problems"])
        assert healed["changed"]
        nft_host.flush()
        assert nft_host.boot().returncode == 0
        assert _held(nft_host) == before
        assert not nft_host.write(**GIVEN)["changed"]


@pytest.mark.parametrize("name", ["generations/1/index.json", "generations/1/asked.json", "current", "generations", ""])
@pytest.mark.parametrize("damage", ["missing", "directory", repetition("empty")])
def test_what_leads_to_the_files_heals_too(nft_host: BootHost, name: str, damage: str) -> None:
    nft_host.write(**GIVEN)
    before = _held(nft_host)
    _damage(nft_host, f"{DIRECTORY}/{name}".rstrip("/"), damage)
    nft_host.flush()
    done = nft_host.boot()
    if name in ("generations/1/index.json", "generations/1/asked.json", "current"):
        assert _held(nft_host) == before
    nothing_is_kept = name == "" and damage != "empty"
    assert done.returncode == (0 if name == "generations/1/asked.json" or nothing_is_kept else 1), done
    nft_host.write(**GIVEN)
    nft_host.flush()
    assert nft_host.boot().returncode == 0
    assert _held(nft_host) == before
    assert not nft_host.write(**GIVEN)["changed"]


def test_sysctls_that_are_safe_behind_rules_wait_for_all_of_them(host: BootHost) -> None:
    name = "net/ipv4/conf/all/route_localnet"
    host.write(**{**GIVEN, "more": {"sysctls": {name: 1}}})
    host.flush()
    assert host.boot().returncode == 0
    assert host.host.sysctl(name) == "1"
    host.host.sysctl(name, 0)
    _damage(host, f"{DIRECTORY}/current/services.iptables", "truncated")
    assert host.boot().returncode == 1
    assert host.host.sysctl(name) == "0"


def test_restores_and_runs_wait_for_each_other(host: BootHost) -> None:
    host.write(**GIVEN)
    before = _held(host)
    for _again in range(5):
        host.flush()
        started = [host.host.start(PROGRAM, "boot", "reload", env={"PATH": host.path}) for _one in range(3)]
        host.write(**GIVEN)
        assert [one.wait(60) for one in started] == [0, 0, 0]
        assert _held(host) == before


def test_the_watch_brings_back_what_was_flushed_unless_a_run_is_under_way(host: BootHost) -> None:
    host.write(**GIVEN)
    before = _held(host)
    assert (host.boot("watch").returncode, host.boot("watch").stderr) == (0, "")
    host.flush()
    lock = "exec 9>> /run/layer4-service-proxy/lock; flock 9; echo held; exec sleep 60"
    run = host.host.start("sh", "-c", lock)
    assert run.stdout
    assert run.stdout.readline() == "held\n"
    assert host.boot("watch").returncode == 0
    assert _held(host) == [[], []]
    run.kill()
    run.wait()
    _until(lambda: host.boot("watch").stderr != "")
    assert _held(host) == before


DOCKER = """\
*filter
:DOCKER-FORWARD - [0:0]
:DOCKER - [0:0]
-I FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
"""


def test_the_watch_puts_jumps_in_front_again_of_somebody_who_drops(host: BootHost) -> None:
    host.write(**GIVEN)
    host.run("iptables-restore", "--noflush", text=DOCKER)
    done = host.boot("watch")
    assert "did not stand any more" in done.stderr
    assert done.returncode == 0
    targets = [line.split()[-1] for line in host.run("iptables", "-S", "FORWARD").splitlines() if " -j " in line]
    assert targets.index("DOCKER-FORWARD") > max(i for i, target in enumerate(targets) if target.startswith("L4-"))
    assert host.boot("watch").stderr == ""


def _until(is_true: Callable[[], bool]) -> None:
    for _again in range(50):
        if is_true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not become true")


def test_all_that_is_written_is_roots_alone(host: BootHost) -> None:
    host.run("mkdir", "-m", "0777", DIRECTORY)
    host.write(**GIVEN)
    modes = host.run("find", DIRECTORY, "!", "-type", "l", "-printf", "%m %u %y\n")
    assert set(modes.splitlines()) == {"700 root d", "600 root f"}
    assert host.run("stat", "-c", "%a %U", PROGRAM) == "755 root\n"


def test_the_command_needs_no_ansible_and_changes_nothing(host: BootHost) -> None:
    host.write(**GIVEN)
    before, files = _held(host), host.files()
    for words in (["status"], ["services"], ["generations"], ["trace", "192.0.2.9", "10.96.0.2", "80"], ["--help"]):
        done = host.command(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
    assert "backend  10.0.0.2:80  0.3333" in host.command("trace", "192.0.2.9", "10.96.0.2", "80").stdout
    assert "service-1  10.96.0.2, 2001:db8:96::1  80/tcp  -> 10.0.0.1:80" in host.command("services").stdout
    assert host.command("restore").returncode == host.command("boot").returncode == 2
    assert (_held(host), host.files()) == (before, files)


def test_tables_of_nftables_come_back_and_are_watched(tmp_path: Path) -> None:
    tables = {"ipv4": nftables_samples.table("ip"), "ipv6": nftables_samples.table("ip6")}
    wanted = [nftables_samples.table_id(family) for family in ("ip", "ip6")]

    def held(node: Namespace) -> dict[TableId, Table]:
        def read() -> dict[TableId, Table]:
            with Nftables() as nftables:
                return nftables.tables(wanted)[0]

        return node.call(read)

    bridge = bridge_tables([Bridge("br0", "promiscuous", ())])
    whole = {
        one: table._replace(chains={**table.chains, **role.chains}, comment="")
        for one, table, role in zip(wanted, tables.values(), bridge.values())
    }
    with Namespace(f"l4nft{os.getpid()}") as node:
        keep(tmp_path, 1, BootState(nftables=tables), bridge=BootState(nftables=bridge))
        node.run("nft", "add table ip theirs")
        for action in ("restore", "reload", "watch"):
            done = restore(node, tmp_path, action)
            assert (done.returncode, done.stderr) == (0, "")
            assert held(node) == whole
        node.run("nft", "delete table ip6 l4-service-proxy")
        # Namespaces share the lock of runs, which another test may hold.
        _until(lambda: "services.nft-ipv6 did not stand any more" in restore(node, tmp_path, "watch").stderr)
        assert held(node) == whole
        (tmp_path / "current" / "services.nft-ipv4").write_bytes(b"")
        node.run("nft", "flush ruleset")
        done = restore(node, tmp_path)
        assert done.returncode == 1
        assert "services.nft-ipv4 is damaged" in done.stderr
        assert {one: set(table.chains) for one, table in held(node).items()} == {
            wanted[0]: {"bridge-forward"},
            wanted[1]: set(whole[wanted[1]].chains),
        }


def test_comments_of_others_are_never_rules_and_stay_to_the_byte(nft_host: BootHost) -> None:
    """Beside ours, in chains that ours are in too, through what a run keeps, a boot, the watch, and removal."""
    nft_host.write(**GIVEN)
    before = _held(nft_host)
    odd = "".join(f"{text}\0" for text in odd_texts(150))
    nft_host.run("bash", "-c", SET_ODD_RULES, text=odd)
    theirs = nft_host.run("sh", "-c", RULES_OF_OTHERS)
    assert theirs.strip()
    for action in ("reload", "watch"):
        done = nft_host.boot(action)
        assert (done.returncode, done.stderr) == (0, "")
        assert nft_host.run("sh", "-c", RULES_OF_OTHERS) == theirs
    nft_host.run("iptables", "-t", "nat", "-D", "PREROUTING", "1")
    nft_host.run("iptables", "-t", "nat", "-D", "OUTPUT", "1")
    assert nft_host.boot("watch").returncode == 0
    assert nft_host.run("sh", "-c", RULES_OF_OTHERS) == theirs
    rules = nft_host.run("iptables", "-t", "nat", "-S", "PREROUTING")
    assert rules.splitlines()[1:] == ['-A PREROUTING -m comment --comment "L4 services" -j L4-SERVICES']
    assert not nft_host.run("sh", "-c", "ls / | grep PWNED || true")
    nft_host.flush()
    assert nft_host.boot().returncode == 0
    assert _held(nft_host) == before
