# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a user writes, what is wrong is said in one line of bounded length, without a traceback or a word of Python's."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.drain import find_endpoints
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.families import service_families
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.messages import (
    messages,
    one_line,
    printable_lines,
    quoted,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import InvalidChainError

NODE = parse_node({"name": "n1", "addresses": ["192.0.2.1", "2001:db8::1"]})
WEB: dict[str, Any] = {"name": "web", "vip": "10.96.0.10", "port": 80}


def wrong(*services: Any) -> list[str]:
    with pytest.raises(InvalidServices) as raised:
        parse_services(list(services), NODE)
    assert all(len(line) < 1000 and line.isprintable() for line in str(raised.value).split("\n"))
    assert len(str(raised.value).split("\n")) <= 51
    return raised.value.problems


ODD: list[Any] = [
    "1" * 5000,
    "\ud800",
    "a\nb\u2028c\u0085d\x0c",
    math.inf,
    -math.inf,
    math.nan,
    datetime.date(2024, 1, 1),
    {443: "a"},
    {(1, 2): "a"},
    ["x" * 5000],
    b"bytes",
    {"a", "b"},
    1e400,
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize(
    "key", ["name", "vip", "port", "protocol", "backends", "node_port", "source_ranges", "unknown"]
)
def test_odd_values_are_refused_in_one_line(key: str, value: Any) -> None:
    for line in wrong({**WEB, key: value}):
        assert not any(word in line for word in ("Traceback", "datetime", "<class", "object at"))


def test_a_number_of_thousands_of_digits_is_shown_and_refused() -> None:
    assert quoted(10**5000) == "a value that cannot be shown" or quoted(10**5000).startswith("1000")
    (line,) = wrong({**WEB, "port": "8" * 5000})
    assert "port is" in line
    assert find_endpoints([{**WEB, "port": "8" * 5000, "backends": [{"address": "10.0.0.1"}]}]) == []


def test_values_are_shown_as_yaml_has_them() -> None:
    assert quoted(None) == "null"
    assert quoted(datetime.date(2024, 1, 1)) == '"2024-01-01"'
    assert quoted("a\u2028b\ud800") == '"a\\u2028b\\ud800"'
    assert "vip" not in wrong({**WEB, "vip": None})[0].partition("give vip")[0]


def test_the_nearest_key_is_named() -> None:
    assert "did you mean backends?" in wrong({**WEB, "backend": []})[0]
    assert "did you mean" not in wrong({**WEB, "zzz": 1})[0]


@pytest.mark.parametrize(
    ("vip", "hint"),
    [
        ("10.96.0.1/24", ", without a prefix length"),
        ("web1.example.org", ": names are not resolved (the filter backends makes backends of hosts)"),
        ("10.96.0.300", ""),
        ([7], ""),
    ],
)
def test_what_is_written_in_place_of_an_address_is_answered(vip: Any, hint: str) -> None:
    assert wrong({**WEB, "vip": vip})[0].endswith(f": must be an IPv4 or IPv6 address{hint}")


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        *(
            ("port", value, "(one service for each port)")
            for value in ("80-90", "80,443", "80 443", [80, 443], "8000:8010", "any")
        ),
        *(("node_port", value, "(one service for each port)") for value in ("30080-30090", [30080, 30081])),
        *(
            ("protocol", value, "(one service for each protocol)")
            for value in ("both", "tcp/udp", "tcp,udp", ["tcp", "udp"])
        ),
        ("port", "http", None),
        ("port", -1, None),
        ("protocol", "icmp", None),
    ],
)
def test_several_where_one_is_wanted_are_answered(key: str, value: Any, hint: str | None) -> None:
    (line,) = wrong({**WEB, key: value})
    assert line.endswith(hint) if hint else "one service" not in line


def test_many_errors_are_as_many_lines_as_a_person_reads() -> None:
    assert len(wrong(*({"name": f"w{number}"} for number in range(1000)))) == 1000
    assert messages(["wrong"] * 50).split("\n") == ["wrong"] * 50
    assert messages(["wrong"] * 51).split("\n") == ["wrong"] * 50 + ["and 1 more"]


def test_what_a_tool_says_keeps_its_lines() -> None:
    assert printable_lines("a\tb") == "a b"
    assert printable_lines("a\x1b[0m\nb\r\n") == "a\\u001b[0m\nb\\r\n"
    assert printable_lines("as it is") == "as it is"


def test_long_messages_keep_their_end() -> None:
    text = str(InvalidChainError("chain " + "x" * 5000 + "\nCOMMIT must be short"))
    assert len(text) < 1000
    assert text.endswith("must be short")
    assert one_line("short") == "short"
    assert one_line("x" * 900) == "x" * 900
    assert one_line("x" * 899 + "yz") == f"{'x' * 600} ... {'x' * 278}yz"


BACKEND = {"address": "10.0.0.1", "port": 8080}


@pytest.mark.parametrize(
    ("other", "backend"),
    [
        ({"vip": "10.96.0.20"}, {"address": "10.96.0.20", "port": 80}),
        ({"external_ips": ["203.0.113.1"]}, {"address": "203.0.113.1", "port": 80}),
        ({"load_balancer_ips": ["203.0.113.2"]}, {"address": "203.0.113.2", "port": 80}),
        ({"node_port": 30080}, {"address": "192.0.2.1", "port": 30080}),
    ],
)
def test_a_backend_at_which_another_service_answers_is_refused(other: dict[str, Any], backend: dict[str, Any]) -> None:
    real = {"name": "real", "port": 80, "backends": [BACKEND], **other}
    (line,) = wrong({**WEB, "backends": [backend]}, real)
    assert line.startswith('service "web": backends has')
    assert 'of service "real"' in line
    for fit in ({**backend, "port": 9999}, {**backend, "address": "10.0.0.2"}):
        parse_services([{**WEB, "backends": [fit]}, real], NODE)


def test_what_listens_on_an_address_of_the_node_is_a_backend() -> None:
    real = {"name": "real", "port": 80, "external_ips": ["192.0.2.1"], "backends": [BACKEND]}
    parse_services([{**WEB, "backends": [{"address": "192.0.2.1", "port": 80}]}, real], NODE)


@pytest.mark.parametrize(
    ("service", "families"),
    [
        ({"vip": "10.96.0.10", "backends": ["10.0.0.1", "fd00::1"]}, ["ipv4"]),
        ({"vip": ["10.96.0.10", "fd96::1"], "backends": ["10.0.0.1"]}, ["ipv4", "ipv6"]),
        ({"vip": [], "external_ips": ["2001:db8::80"], "backends": ["10.0.0.1"]}, ["ipv6"]),
        ({"vip": [], "backends": ["fd00::1"]}, ["ipv6"]),
        ({"vip": [], "backends": []}, ["ipv4", "ipv6"]),
    ],
)
def test_a_node_port_answers_in_the_families_of_addresses_and_else_of_backends(
    service: dict[str, Any], families: list[str]
) -> None:
    raw = {**WEB, "node_port": 30080, **service, "backends": [{"address": one} for one in service["backends"]]}
    (parsed,) = parse_services([raw], NODE)
    assert service_families(parsed, NODE) == families
