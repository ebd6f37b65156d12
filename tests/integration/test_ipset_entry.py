# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ipset_entry against a real kernel: what it makes, and that a second run and check mode agree with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from repetition import repetition
from set_host import SetHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset import scratch_name


@pytest.fixture
def host() -> Iterator[SetHost]:
    with SetHost() as made:
        yield made


TYPES = [
    (
        "hash:ip",
        "ipv4",
        ["10.0.0.1/32", "10.0.0.4-10.0.0.6", "10.0.1.0/31"],
        ["10.0.0.1", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.1.0", "10.0.1.1"],
    ),
    (
        "hash:ip",
        "ipv6",
        ["2001:DB8:0::1", "2001:db8::4-2001:db8::5", "::ffff:10.0.0.1"],
        ["2001:db8::1", "2001:db8::4", "2001:db8::5", "::ffff:10.0.0.1"],
    ),
    (
        "hash:net",
        "inet",
        ["10.0.0.5/24", "192.0.2.1", "192.0.2.8-192.0.2.12"],
        ["10.0.0.0/24", "192.0.2.1", "192.0.2.12", "192.0.2.8/30"],
    ),
    (
        "hash:net",
        "inet6",
        ["2001:db8::1/64", "fd00:0:0::/16", "::/1", "8000::/1"],
        ["2001:db8::/64", "8000::/1", "::/1", "fd00::/16"],
    ),
    (
        "hash:ip,port",
        "ipv4",
        [
            "10.0.0.1,8080",
            "10.0.0.1,TCP:8080",
            "10.0.0.1,6:8081",
            "10.0.0.1,http",
            "10.0.0.1,udp:domain",
            "10.0.0.2-10.0.0.3,sctp:7-8",
            "10.0.0.9,udplite:1",
        ],
        [
            "10.0.0.1,tcp:80",
            "10.0.0.1,tcp:8080",
            "10.0.0.1,tcp:8081",
            "10.0.0.1,udp:53",
            "10.0.0.2,sctp:7",
            "10.0.0.2,sctp:8",
            "10.0.0.3,sctp:7",
            "10.0.0.3,sctp:8",
            "10.0.0.9,udplite:1",
        ],
    ),
    ("hash:ip,port", "ipv6", ["[2001:DB8::1],80", "fe80::1,udp:53"], ["2001:db8::1,tcp:80", "fe80::1,udp:53"]),
    ("hash:net,port", "ipv4", ["10.0.0.0/8,80", "10.1.2.3,udp:53"], ["10.0.0.0/8,tcp:80", "10.1.2.3,udp:53"]),
    ("hash:net,port", "ipv6", ["fd00::/8,80"], ["fd00::/8,tcp:80"]),
    (
        "hash:ip,port,ip",
        "ipv4",
        ["10.0.0.1,tcp:8080,10.0.0.2", "10.0.0.1,80-81,10.0.0.1"],
        ["10.0.0.1,tcp:8080,10.0.0.2", "10.0.0.1,tcp:80,10.0.0.1", "10.0.0.1,tcp:81,10.0.0.1"],
    ),
    ("hash:ip,port,ip", "ipv6", ["FD00::1,8080,FD00::2"], ["fd00::1,tcp:8080,fd00::2"]),
    (
        "hash:ip,port,net",
        "ipv4",
        ["10.0.0.1,tcp:80,192.0.2.9/24", "10.0.0.1,80,192.0.2.9"],
        ["10.0.0.1,tcp:80,192.0.2.0/24", "10.0.0.1,tcp:80,192.0.2.9"],
    ),
    ("hash:ip,port,net", "ipv6", ["fd00::1,tcp:80,fd01::1/64"], ["fd00::1,tcp:80,fd01::/64"]),
    ("bitmap:port", None, [80, "udp:53", "8000-8002", "https"], ["443", "53", "80", "8000", "8001", "8002"]),
]


@pytest.mark.parametrize(("type_name", "family", "entries", "members"), TYPES)
def test_spellings_become_what_ipset_save_prints(
    host: SetHost, type_name: str, family: str | None, entries: list[str], members: list[str]
) -> None:
    options: dict[str, Any] = {"set": "s", "type": type_name, "entries": entries}
    if family:
        options["family"] = family
    result = host.converge(**options)
    assert result["changed"]
    assert host.members("s") == sorted(members)
    assert result["diff"]["before"] == ""
    assert sorted(result["diff"]["after"].splitlines()) == host.saved()
    gone = host.converge(set="s", entries=entries, state="absent")
    assert sorted(gone["diff"]["before"].splitlines()) == sorted("add s " + member for member in members)
    assert host.members("s") == []


@pytest.mark.parametrize(("type_name", "family", "entries", "members"), TYPES)
def test_what_ipset_added_is_found(
    host: SetHost, type_name: str, family: str | None, entries: list[str], members: list[str]
) -> None:
    words = ["family", {"ipv4": "inet", "ipv6": "inet6"}.get(family, family)] if family else ["range", "0-65535"]
    host.ipset("create", "s", type_name, *words)
    for member in members:
        host.ipset("add", "s", member)
    assert not host.apply(set="s", entries=entries, exclusive=True)["changed"]


def test_icmp_and_protocols_without_ports_are_numbers(host: SetHost) -> None:
    host.converge(set="s", type="hash:ip,port", entries=["10.0.0.1,icmp:8/0", "10.0.0.1,112:0", "10.0.0.1,1:3/7"])
    for element in ("icmp:echo-request", "112:0", "icmp:host-unknown"):
        host.ipset("test", "s", f"10.0.0.1,{element}")
    assert len(host.members("s")) == 3


def test_lists_of_sets(host: SetHost) -> None:
    host.apply(set="a", type="hash:ip")
    host.apply(set="b", type="hash:net", family="ipv6")
    result = host.converge(set="l", type="list:set", entries=["a", "b"])
    assert result["diff"]["after"] == "create l list:set\nadd l a\nadd l b\n"
    assert host.converge(set="l", entries=["b"], exclusive=True)["diff"] == {"before": "add l a\n", "after": ""}
    host.converge(set="l", entries=["a"], exclusive=True)
    assert host.members("l") == ["a"]
    host.apply(set="b", state="absent")


def test_check_mode_warns_of_members_that_an_earlier_task_would_make(host: SetHost) -> None:
    result = host.apply(check=True, set="l", type="list:set", entries=["soon"])
    assert result["diff"]["after"] == "create l list:set\nadd l soon\n"
    assert 'set "l": member "soon" does not exist: must be the name of a set' in str(result["warnings"])


def test_all_options_of_a_set(host: SetHost) -> None:
    options: dict[str, Any] = {"timeout": 600, "comment": True, "counters": True, "hashsize": 5000, "maxelem": 100}
    entry = {"entry": "10.0.0.1", "timeout": 300, "comment": "größer, as before", "packets": 7, "bytes": 700}
    result = host.converge(set="s", type="hash:ip", entries=[entry, "10.0.0.2"], **options)
    create = "create s hash:ip family inet hashsize 8192 maxelem 100 timeout 600 counters comment"
    assert host.header("s") == create
    assert result["diff"]["after"].splitlines() == [
        create,
        'add s 10.0.0.1 timeout 300 packets 7 bytes 700 comment "größer, as before"',
        "add s 10.0.0.2 timeout 600",
    ]
    first, second = host.members("s")
    assert "packets 7 bytes 700" in first
    assert int(first.split()[2]) <= 300 < int(second.split()[2]) <= 600


def test_entries_written_as_for_the_tool(host: SetHost) -> None:
    host.converge(
        set="s",
        type="hash:net",
        timeout=0,
        comment=True,
        counters=True,
        entries=['10.0.0.0/8 timeout 0 packets 1 bytes 2 comment "a  b"', "10.1.0.0/16 nomatch comment plain"],
    )
    assert host.members("s") == [
        '10.0.0.0/8 timeout 0 packets 1 bytes 2 comment "a  b"',
        '10.1.0.0/16 timeout 0 nomatch packets 0 bytes 0 comment "plain"',
    ]


def test_the_diff_can_be_pasted(host: SetHost) -> None:
    entries = [{"entry": "10.0.0.1,icmp:8/0", "comment": "ping me"}, "10.0.0.1,80"]
    text = host.apply(set="s", type="hash:ip,port", timeout=0, comment=True, entries=entries)["diff"]["after"]
    saved = host.saved()
    host.ipset("destroy", "s")
    host.ipset("restore", text=text)
    assert host.saved() == saved


def test_time_that_is_left_and_counters_are_no_change(host: SetHost) -> None:
    options: dict[str, Any] = {"set": "s", "type": "hash:ip", "timeout": 500, "counters": True}
    entries = [{"entry": "10.0.0.1", "timeout": 100, "packets": 5, "bytes": 50}, "10.0.0.2"]
    host.apply(**options, entries=entries)
    time.sleep(1.2)
    before = host.ipset("save")
    assert not host.apply(**options, entries=entries, exclusive=True)["changed"]
    assert not host.apply(**options, entries=[{"entry": "10.0.0.1", "timeout": 400, "packets": 9}])["changed"]
    left = int(host.members("s")[0].split()[2])
    assert left < 100, before


def test_an_entry_that_is_to_stay_for_ever_and_back(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", timeout=500, entries=["10.0.0.1"])
    result = host.converge(set="s", entries=["10.0.0.1 timeout 0"])
    assert result["diff"] == {"before": "add s 10.0.0.1\n", "after": "add s 10.0.0.1 timeout 0\n"}
    assert host.members("s") == ["10.0.0.1 timeout 0"]
    result = host.converge(set="s", entries=["10.0.0.1 timeout 50"])
    assert result["diff"] == {"before": "add s 10.0.0.1 timeout 0\n", "after": "add s 10.0.0.1 timeout 50\n"}


def test_a_changed_comment_keeps_the_time_left_and_the_counters(host: SetHost) -> None:
    host.ipset("create", "s", "hash:ip", "timeout", "500", "comment", "counters")
    host.ipset("add", "s", "10.0.0.1", "timeout", "90", "packets", "3", "bytes", "4", "comment", "old")
    result = host.converge(set="s", entries=[{"entry": "10.0.0.1", "comment": "new"}])
    assert result["diff"] == {"before": 'add s 10.0.0.1 comment "old"\n', "after": 'add s 10.0.0.1 comment "new"\n'}
    (member,) = host.members("s")
    assert "packets 3 bytes 4" in member
    assert 80 < int(member.split()[2]) <= 90
    assert not host.apply(set="s", entries=["10.0.0.1"])["changed"]
    assert host.converge(set="s", entries=[{"entry": "10.0.0.1", "comment": ""}])["changed"]


def test_nomatch_is_part_of_what_is_wanted(host: SetHost) -> None:
    host.converge(set="s", type="hash:net", entries=["10.0.0.0/24 nomatch"])
    result = host.converge(set="s", entries=["10.0.0.0/24"])
    assert result["diff"] == {"before": "add s 10.0.0.0/24 nomatch\n", "after": "add s 10.0.0.0/24\n"}


def test_only_what_is_given_is_enforced(host: SetHost) -> None:
    host.ipset("create", "s", "hash:ip", "timeout", "60", "comment", "counters", "maxelem", "99")
    host.ipset("add", "s", "10.0.0.9", "comment", "theirs")
    before = host.header("s")
    result = host.converge(set="s", type="hash:ip", entries=["10.0.0.1"])
    assert result["diff"]["after"] == "add s 10.0.0.1 timeout 60\n"
    assert host.header("s") == before
    assert len(host.members("s")) == 2


def test_a_grown_hash_is_not_shrunk(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.0/19"])
    assert "hashsize 1024 " not in host.header("s")
    assert not host.apply(set="s", type="hash:ip", hashsize=1024)["changed"]
    assert host.converge(set="s", hashsize=65536)["changed"]
    assert "hashsize 65536" in host.header("s")
    assert len(host.members("s")) == 8192


def use_by_rule(host: SetHost, name: str) -> str:
    host.namespace.run("iptables", "-A", "INPUT", "-m", "set", "--match-set", name, "src", "-j", "DROP")
    return f"iptables -t filter -A INPUT -m set --match-set {name} src -j DROP"


@pytest.mark.parametrize(
    ("change", "create"),
    [
        ({"maxelem": 500}, "maxelem 500 timeout 300 counters comment"),
        ({"timeout": 77}, "maxelem 65536 timeout 77 counters comment"),
        ({"comment": False}, "maxelem 65536 timeout 300 counters"),
        ({"counters": False}, "maxelem 65536 timeout 300 comment"),
    ],
)
def test_changed_options_of_a_set_in_use_keep_its_members(host: SetHost, change: dict[str, Any], create: str) -> None:
    host.ipset("create", "s", "hash:ip", "timeout", "300", "comment", "counters")
    host.ipset("add", "s", "10.0.0.1", "timeout", "100", "packets", "3", "bytes", "9", "comment", "one")
    host.ipset("add", "s", "10.0.0.2", "timeout", "0")
    use_by_rule(host, "s")
    result = host.converge(set="s", **change)
    assert result["diff"]["after"].splitlines()[0].startswith(f"create s hash:ip family inet hashsize 1024 {create}")
    assert host.header("s") == f"create s hash:ip family inet hashsize 1024 {create}"
    first, second = host.members("s")
    assert 90 < int(first.split()[2]) <= 100
    assert ('comment "one"' in first) == ("comment" not in change)
    assert ("packets 3 bytes 9" in first) == ("counters" not in change)
    assert second.startswith("10.0.0.2 timeout 0")
    assert host.ipset("list", "-n").split() == ["s"]
    host.namespace.run("iptables", "-C", "INPUT", "-m", "set", "--match-set", "s", "src", "-j", "DROP")


def test_turning_options_on_keeps_members_for_ever(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.1"])
    host.converge(set="s", timeout=300, comment=True, entries=["10.0.0.1", {"entry": "10.0.0.2", "comment": "new"}])
    first, second = host.members("s")
    assert first == "10.0.0.1 timeout 0"
    assert second.startswith("10.0.0.2 timeout ")


def test_a_changed_range(host: SetHost) -> None:
    host.apply(set="p", type="bitmap:port", range="1-1000", entries=[80])
    assert host.converge(set="p", range="80-9000", entries=[8080])["changed"]
    assert host.header("p") == "create p bitmap:port range 80-9000"
    assert (
        host.run(set="p", range="100-200")["msg"]
        == 'set "p": range is "100-200": must include the port 80, which stays in the set'
    )
    host.converge(set="p", range="100-200", entries=[150], exclusive=True)
    assert host.members("p") == ["150"]


def test_exclusive_takes_the_place_of_all_entries_of_a_set_in_use(host: SetHost) -> None:
    host.ipset("create", "s", "hash:ip", "timeout", "500")
    for last in range(1, 6):
        host.ipset("add", "s", f"10.0.0.{last}", "timeout", "50")
    use_by_rule(host, "s")
    result = host.converge(set="s", entries=["10.0.0.5", "10.0.0.6"], exclusive=True)
    assert result["diff"] == {
        "before": "".join(f"add s 10.0.0.{last}\n" for last in range(1, 5)),
        "after": "add s 10.0.0.6 timeout 500\n",
    }
    kept, added = host.members("s")
    assert int(kept.split()[2]) <= 50
    assert added.startswith("10.0.0.6 timeout ")
    assert host.ipset("list", "-n").split() == ["s"]


def test_exclusive_with_an_empty_list_empties_the_set(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.1", "10.0.0.2"])
    assert host.converge(set="s", entries=[], exclusive=True)["changed"]
    assert host.members("s") == []


def test_absent_with_an_empty_list_leaves_the_set(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.1"])
    assert not host.apply(set="s", entries=[], state="absent")["changed"]
    assert host.members("s") == ["10.0.0.1"]


def test_absent_removes_the_set_and_is_content_without_one(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", comment=True, entries=["10.0.0.1 comment x"])
    result = host.converge(set="s", state="absent")
    assert result["diff"]["before"].splitlines() == [
        "create s hash:ip family inet hashsize 1024 maxelem 65536 comment",
        'add s 10.0.0.1 comment "x"',
    ]
    assert host.saved() == []
    assert not host.apply(set="s", state="absent", entries=["10.0.0.1"])["changed"]


def test_a_set_that_is_used_by_a_rule_and_a_list_stays(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.1"])
    host.apply(set="l", type="list:set", entries=["s"])
    rule = use_by_rule(host, "s")
    for check in (True, False):
        failed = host.run(check=check, set="s", state="absent")
        assert failed["msg"] == f'set "s" cannot be removed: 2 rules or sets use it: list:set l; {rule}'
    assert host.members("s") == ["10.0.0.1"]


def test_what_a_killed_run_left_is_cleared_away(host: SetHost) -> None:
    host.apply(set="s", type="hash:ip", entries=["10.0.0.1"])
    host.ipset("create", scratch_name("s"), "hash:net")
    host.converge(set="s", entries=["10.0.0.2", "10.0.0.3"], exclusive=True)
    assert host.ipset("list", "-n").split() == ["s"]


def test_other_sets_are_left_alone(host: SetHost) -> None:
    host.ipset("create", "theirs", "hash:ip", "comment")
    host.ipset("add", "theirs", "10.9.9.9", "comment", "docker")
    before = host.ipset("save", "theirs")
    host.converge(set="s", type="hash:ip", entries=["10.0.0.1", "10.0.0.2"], exclusive=True)
    host.converge(set="s", maxelem=10)
    host.converge(set="s", state="absent")
    assert host.ipset("save", "theirs") == before


@pytest.mark.parametrize("exclusive", [repetition(False), True])
def test_sixty_thousand_entries(host: SetHost, exclusive: bool) -> None:
    entries = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255},tcp:8080,10.0.0.1" for number in range(60000)]
    options: dict[str, Any] = {"set": "s", "type": "hash:ip,port,ip", "entries": entries, "exclusive": exclusive}
    assert host.apply(**options)["changed"]
    assert not host.apply(**options)["changed"]
    assert len(host.members("s")) == 60000
    host.apply(**{**options, "entries": [*entries[1:], "10.255.0.1,80,10.0.0.1", "10.255.0.2,80,10.0.0.1"]})
    assert len(host.members("s")) == (60001 if exclusive else 60002)
