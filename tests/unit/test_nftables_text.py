# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of everything in a table of nftables, as nft(8) lists it (tests/integration/test_nftables_kernel.py asks nft itself)."""

from __future__ import annotations

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    VERDICT,
    Chain,
    Element,
    Flowtable,
    Hook,
    Rule,
    Set,
    SetHeader,
    Statement,
    Verdict,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_rule_text import (
    duration,
    rule_text,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import (
    chain_lines,
    chain_words,
    flowtable_lines,
    header_words,
    priority_text,
    set_lines,
    sorted_elements,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import (
    FIELDS,
    TYPES,
    interval_to_text,
    network,
    pack,
    unpack,
)
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import address, match, rules, sets, table

EVERY_RULE = [(family, *rule) for family in ("ip", "ip6") for rule in rules(family)]


@pytest.mark.parametrize(
    ("family", "statements", "text"), EVERY_RULE, ids=[f"{one[0]}: {one[2]}" for one in EVERY_RULE]
)
def test_text_of_a_rule(family: str, statements: tuple[Statement, ...], text: str) -> None:
    assert rule_text(Rule(statements)) == text, family
    assert rule_text(Rule(statements, "why")) == text + ' comment "why"'


def test_text_of_a_map() -> None:
    assert set_lines("services", sets("ip")["services"]) == [
        "map services {",
        "\ttype ipv4_addr . inet_proto . inet_service : verdict",
        '\tcomment "by address"',
        '\telements = { 10.0.0.1 . tcp . 80 comment "web" : goto nothing,',
        "\t\t     10.0.0.1 . udp . 53 : drop }",
        "}",
    ]


def test_elements_of_a_set_stand_below_the_first() -> None:
    held = Set(SetHeader(("ipv4_addr",)), {address(f"10.0.0.{last}"): Element() for last in (1, 2, 3, 4)})
    assert set_lines("clients", held)[2:-1] == [
        "\telements = { 10.0.0.1,",
        "\t\t     10.0.0.2,",
        "\t\t     10.0.0.3,",
        "\t\t     10.0.0.4 }",
    ]


def test_key_with_a_number_is_listed_by_its_fields() -> None:
    assert header_words(sets("ip6")["backends"].header) == (
        "{ typeof numgen random mod 100 . ip6 daddr . meta l4proto . th dport : ip6 daddr . th dport; }"
    )


def test_text_of_a_set_that_packets_fill() -> None:
    assert header_words(sets("ip")["affinity"].header) == (
        "{ typeof ip saddr . ip daddr . meta l4proto . th dport : ip daddr . th dport; size 65535; flags dynamic,timeout; timeout 3h; }"
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (network("10.0.0.0/8"), "10.0.0.0/8"),
        (network("10.0.0.1"), "10.0.0.1"),
        (network("0.0.0.0/0"), "0.0.0.0/0"),
        (address("10.0.0.1") + address("10.0.0.2"), "10.0.0.1-10.0.0.2"),
        (address("10.0.0.2") + address("10.0.0.5"), "10.0.0.2-10.0.0.5"),
        (address("10.0.0.2") + address("10.0.0.3"), "10.0.0.2/31"),
    ],
)
def test_text_of_an_interval(key: bytes, text: str) -> None:
    assert interval_to_text("ipv4_addr", key[:4], key[4:]) == text


def test_text_of_an_element_with_a_time() -> None:
    header = SetHeader(("ipv4_addr",), flags=("timeout",))
    elements = {address("10.0.0.1"): Element(None, "a", 90_061_001)}
    assert sorted_elements(header, elements) == ['10.0.0.1 timeout 1d1h1m1s1ms comment "a"']


def test_text_of_the_element_for_all_that_have_none() -> None:
    header = SetHeader(("ipv4_addr",), (VERDICT,))
    elements = {address("10.0.0.1"): Element(Verdict("accept")), b"": Element(Verdict("drop"), "rest")}
    assert sorted_elements(header, elements) == ['* comment "rest" : drop', "10.0.0.1 : accept"]


def test_text_of_chains() -> None:
    base = Chain((Rule((Verdict("accept"),), "all"),), Hook("nat", "output", -100), "here")
    assert chain_lines("nat-output", base) == [
        "chain nat-output {",
        '\tcomment "here"',
        "\ttype nat hook output priority dstnat; policy accept;",
        '\taccept comment "all"',
        "}",
    ]
    assert chain_words(base) == '{ comment "here"; type nat hook output priority dstnat; policy accept; }'
    assert chain_words(Chain()) == ""


@pytest.mark.parametrize(
    ("priority", "text"),
    [
        (-300, "raw"),
        (0, "filter"),
        (-5, "filter - 5"),
        (10, "filter + 10"),
        (11, "11"),
        (-101, "dstnat - 1"),
        (-200, "-200"),
    ],
)
def test_text_of_priorities(priority: int, text: str) -> None:
    assert priority_text(priority) == text


def test_text_of_durations() -> None:
    assert [duration(value) for value in (0, 10_800_000, 86_400_000, 90_000)] == ["0s", "3h", "1d", "1m30s"]


def test_text_of_a_flow_table() -> None:
    assert flowtable_lines("offload", Flowtable(0, ("eth0", "eth1"))) == [
        "flowtable offload {",
        "\thook ingress priority filter",
        "\tdevices = { eth0, eth1 }",
        "}",
    ]


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("ipv4_addr", "ipv6_addr", "ifname")])
def test_values_have_one_text(name: str) -> None:
    value = (
        bytes(TYPES[name].size - 1) + b"\x01"
        if not TYPES[name].is_host_order
        else b"\x01" + bytes(TYPES[name].size - 1)
    )
    assert pack(name, unpack(name, value)) == value


def test_fields_are_of_known_types() -> None:
    assert set(FIELDS.values()) <= set(TYPES)


def test_values_are_comparable_and_hashable() -> None:
    assert table("ip") == table("ip")
    assert hash(table("ip").chains["every-statement"]) == hash(table("ip").chains["every-statement"])
    assert match("ip daddr", "10.0.0.1") != match("ip daddr", "10.0.0.2")


def test_an_empty_set_has_no_elements() -> None:
    assert set_lines("none", Set(SetHeader(("ipv4_addr",)), {})) == ["set none {", "\ttype ipv4_addr", "}"]
