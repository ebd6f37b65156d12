# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of users: parsers of fields, families of services, needs of services, networks that cover addresses."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model import fields
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import covering_networks
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.families import by_family
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.fields import MISSING, Field, Fields, Problem
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.requirements import (
    backends_by_node,
    find_needs,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_changes import describe_changes
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.values import Mark

PORT = "an integer from 1 to 9"
ODD = fields.pattern("[13579]", "an odd digit")


@pytest.mark.parametrize(("value", "parsed"), [(1, 1), (9, 9), ("5", 5), (" 7 ", 7), ("09", 9)])
def test_an_integer(value: Any, parsed: int) -> None:
    assert fields.integer(1, 9)(value) == parsed


@pytest.mark.parametrize("value", [0, 10, "10", "0", "x", "", "-1", "1.0", "\u0663", 1.0, True, None, [1], MISSING])
def test_no_integer(value: Any) -> None:
    with pytest.raises(Problem) as raised:
        fields.integer(1, 9)(value)
    assert (raised.value.allowed, str(raised.value), raised.value.value, raised.value.at) == (PORT, PORT, MISSING, "")


def test_a_choice() -> None:
    parse = fields.choice("a", "b")
    assert (parse("a"), parse("b")) == ("a", "b")
    for value in ("c", "", 1, None, ["a"], MISSING):
        with pytest.raises(Problem, match=r"^one of a, b$"):
            parse(value)


def test_a_pattern() -> None:
    parse = fields.pattern("[13579]", "an odd digit")
    assert parse("3") == "3"
    for value in ("2", "33", "", 3, None, MISSING):
        with pytest.raises(Problem, match=r"^an odd digit$"):
            parse(value)


@pytest.mark.parametrize("word", ["Y", "yes", "on", "1", "TRUE", "t", 1, True])
def test_true(word: Any) -> None:
    assert fields.boolean(word) is True


@pytest.mark.parametrize("word", ["N", "no", "off", "0", "False", "f", 0, False])
def test_false(word: Any) -> None:
    assert fields.boolean(word) is False


@pytest.mark.parametrize("word", ["maybe", "", 2, -1, None, [1], {}])
def test_neither_true_nor_false(word: Any) -> None:
    with pytest.raises(Problem, match=r"^true or false$"):
        fields.boolean(word)


@pytest.mark.parametrize(
    ("types", "right", "wrong", "allowed"),
    [
        ((str,), "x", ["", 1, ["x"]], "a string"),
        ((list, tuple), [1], ["x", {}], "a list"),
        ((str, dict), {"a": 1}, [1, []], "a string or a dict"),
    ],
)
def test_one_of_some_types(types: tuple[type, ...], right: Any, wrong: list[Any], allowed: str) -> None:
    parse = fields.one_of_type(*types)
    assert parse(right) is right
    for value in wrong:
        with pytest.raises(Problem, match=f"^{allowed}$"):
            parse(value)


def test_a_list_and_a_list_of_one() -> None:
    parse = fields.listed(ODD)
    assert parse(["1", "3"]) == ("1", "3")
    assert parse(("5",)) == ("5",)
    assert parse("7") == ("7",)
    assert parse([]) == ()


@pytest.mark.parametrize(
    ("value", "allowed", "shown", "at"),
    [
        (5, "a list, each item an odd digit", MISSING, ""),
        (None, "a list, each item an odd digit", MISSING, ""),
        ({"1": 1}, "a list, each item an odd digit", MISSING, ""),
        (["1", "2"], "an odd digit", "2", "[1]"),
        ("2", "an odd digit", "2", ""),
        (["1", "3", "1"], "given once", "1", "[2]"),
    ],
)
def test_what_is_wrong_in_a_list(value: Any, allowed: str, shown: Any, at: str) -> None:
    with pytest.raises(Problem) as raised:
        fields.listed(ODD)(value)
    assert (raised.value.allowed, raised.value.value, raised.value.at) == (allowed, shown, at)


FIELDS = Fields({"port": Field(fields.integer(1, 9)), "kind": Field(ODD, "1"), "free": Field(fields.boolean, None)})


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        ({"port": 5}, {"port": 5, "kind": "1", "free": None}),
        ({"port": "5", "kind": "3", "free": "no"}, {"port": 5, "kind": "3", "free": False}),
        ({"port": 5, "kind": None}, {"port": 5, "kind": "1", "free": None}),
    ],
)
def test_right_fields(raw: dict[str, Any], values: dict[str, Any]) -> None:
    problems: list[str] = []
    assert fields.parsed(raw, FIELDS) == values
    assert fields.parse_fields("it", raw, FIELDS, problems) == values
    assert problems == []


KEYS = "port, kind, free"


@pytest.mark.parametrize(
    ("raw", "values", "told"),
    [
        ([1], {}, [f"it is [1]: must be a dict with the keys {KEYS}"]),
        ({}, {"kind": "1", "free": None}, [f"it: port is missing: must be {PORT}"]),
        ({"port": None}, {"kind": "1", "free": None}, [f"it: port is missing: must be {PORT}"]),
        (
            {"port": 0, "kind": "2"},
            {"free": None},
            [f"it: port is 0: must be {PORT}", 'it: kind is "2": must be an odd digit'],
        ),
        (
            {"port": 1, "prt": 2},
            {"port": 1, "kind": "1", "free": None},
            [f'it: "prt" is not a known key (its value is 2): did you mean port? allowed are {KEYS}'],
        ),
        (
            {"port": 1, "prt": None},
            {"port": 1, "kind": "1", "free": None},
            [f'it: "prt" is not a known key (its value is null): did you mean port? allowed are {KEYS}'],
        ),
    ],
)
def test_wrong_fields(raw: Any, values: dict[str, Any], told: list[str]) -> None:
    problems: list[str] = []
    assert fields.parsed(raw, FIELDS) is None
    assert fields.parse_fields("it", raw, FIELDS, problems) == values
    assert problems == told


def test_the_wrong_item_is_shown_with_its_place() -> None:
    problems: list[str] = []
    fields.parse_fields("it", {"odd": ["1", "4"]}, {"odd": Field(fields.listed(ODD))}, problems)
    assert problems == ['it: odd[1] is "4": must be an odd digit']
    problems.clear()
    fields.parse_fields("it", {}, {"any": Field(lambda value: value)}, problems)
    assert problems == ["it: any is missing: must be given"]


def test_quotes_are_json_and_short() -> None:
    assert fields.quoted({"a": ["ü", None]}) == '{"a": ["ü", null]}'
    assert fields.quoted({1}) == '"{1}"'
    assert fields.quoted("x" * 78) == f'"{"x" * 78}"'
    assert fields.quoted("x" * 79) == f'"{"x" * 76}...'
    assert len(fields.quoted("x" * 79)) == 80


@pytest.mark.parametrize(
    ("found", "most", "networks"),
    [
        ([], 2, []),
        (["10.0.0.1", "10.0.0.2"], 2, ["10.0.0.1/32", "10.0.0.2/32"]),
        (["10.0.0.1", "10.0.0.2", "10.0.0.2"], 2, ["10.0.0.1/32", "10.0.0.2/32"]),
        (["10.0.0.1", "10.0.0.2"], 1, ["10.0.0.0/28"]),
        (["10.0.0.1", "192.0.2.1"], 1, ["0.0.0.0/0"]),
        (["fd00::1", "fd00::2", "fd01::1"], 2, ["fd00::/112", "fd01::/112"]),
    ],
)
def test_networks_that_cover_addresses(found: list[str], most: int, networks: list[str]) -> None:
    assert covering_networks(found, most) == networks


def test_services_by_family() -> None:
    node = parse_node({"name": "node1", "addresses": ["2001:db8::1"]})
    raw = [
        {"name": "both", "vip": ["10.96.0.1", "fd96::1"], "port": 80},
        {"name": "node-port", "port": 81, "node_port": 30081},
        {"name": "behind", "port": 82, "node_port": 30082, "backends": [{"address": "10.0.0.1"}]},
    ]
    found = by_family(parse_services(raw, node), node)
    assert {family: [one.name for one in services] for family, services in found.items()} == {
        "ipv4": ["behind", "both"],
        "ipv6": ["both", "node-port"],
    }


def test_what_services_need_of_a_node() -> None:
    services = [
        {
            "name": "a",
            "vip": "10.96.0.1",
            "scheduler": "rr",
            "backends": [{"address": "10.0.0.2", "node": "node1"}, {"address": "10.0.0.1", "node": "node1"}],
        },
        {"name": "b", "external_ips": ["192.0.2.1"], "forward_method": "direct", "backends": [{"address": "10.0.0.9"}]},
        "no service",
        {"name": "c", "backends": ["wrong", {"address": "10.0.0.8", "node": "node2"}]},
    ]
    assert find_needs(services, "node1") == {
        "ipv6": False,
        "zone": False,
        "schedulers": ["rr", "wrr"],
        "forward_methods": ["direct", "masquerade"],
        "backend_addresses": ["10.0.0.1", "10.0.0.2"],
    }
    assert find_needs(services, "")["backend_addresses"] == []
    assert find_needs([{"load_balancer_ips": ["2001:db8::1"]}], "x")["ipv6"] is True
    assert find_needs([{"vip": "10.96.0.1", "backends": [{"address": "fd00::1"}]}], "x")["ipv6"] is True
    assert find_needs([{"traffic_distribution": "prefer_zone"}], "x")["zone"] is True
    nothing = {"ipv6": False, "zone": False, "schedulers": [], "forward_methods": [], "backend_addresses": []}
    assert find_needs([], "x") == nothing


def test_backends_by_the_name_of_their_node() -> None:
    services = [
        {
            "backends": [
                {"address": "10.0.0.2", "node": "b"},
                {"address": "10.0.0.1", "node": "a"},
                {"address": "10.0.0.9"},
            ]
        },
        {"backends": [{"address": "10.0.1.1", "node": "b"}, {"address": "10.0.0.2", "node": "b"}, "wrong"]},
        {"backends": {"address": "fd00::1", "node": 7}},
        {"backends": None},
        "no service",
    ]
    assert backends_by_node(services) == {"b": ["10.0.0.2", "10.0.1.1"], "a": ["10.0.0.1"], "7": ["fd00::1"]}


@pytest.mark.parametrize(
    ("given", "mark"),
    [
        ("0x4000", Mark(0x4000, 0x4000)),
        ("0x1/0x3", Mark(1, 3)),
        (16, Mark(16, 16)),
        ("0xffffffff", Mark(2**32 - 1, 2**32 - 1)),
        ("1/0xffffffff", Mark(1, 2**32 - 1)),
    ],
)
def test_a_mark(given: Any, mark: Mark) -> None:
    assert parse_node({"name": "node1", "masquerade_mark": given}).masquerade_mark == mark


@pytest.mark.parametrize("given", ["0", "0/1", "2/1", "3/0x2", "1/0", "x", "1/", "-1", "0x100000000", "1/0x100000000"])
def test_no_mark(given: str) -> None:
    with pytest.raises(InvalidServices) as raised:
        parse_node({"name": "node1", "masquerade_mark": given})
    allowed = "value/mask in hexadecimal, such as 0x4000/0x4000, the value not 0 and inside the mask"
    assert str(raised.value) == f'node: masquerade_mark is "{given}": must be {allowed}'


def test_changes_are_told_in_numbers_that_agree() -> None:
    node = parse_node({"name": "node1"})
    for count, words in ((0, "no backends"), (1, "1 backend"), (2, "2 backends")):
        backends = [{"address": f"10.0.0.{number}"} for number in range(1, count + 1)]
        service = {"name": "a", "vip": "10.96.0.1", "port": 80, "backends": backends}
        assert describe_changes([], [service], node) == [f"a: added, 10.96.0.1:80/tcp, {words}"]
        assert describe_changes([service], [], node) == ["a: removed"]


def test_no_network() -> None:
    with pytest.raises(InvalidServices) as raised:
        parse_node({"name": "node1", "local_cidrs": ["x"]})
    allowed = "a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64"
    assert str(raised.value) == f'node: local_cidrs[0] is "x": must be {allowed}'
