# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of ipvs_service: what is refused, with all errors at once, and what a request makes of what is there."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    Destination,
    HeldService,
    ServiceKey,
    VirtualService,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.request import (
    InvalidVirtualServiceError,
    parse_request,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.wanted import (
    wanted_service,
)

DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(["address", "port", "protocol", "fwmark", "family", "scheduler", "scheduler_flags"]),
    **dict.fromkeys(["persistence_timeout", "netmask", "one_packet", "destinations"]),
    "exclusive": False,
    "drain_timeout": 0,
    "state": "present",
}
WEB: dict[str, Any] = {"address": "192.0.2.1", "port": 80}
KEY = ServiceKey("ipv4", "tcp", "192.0.2.1", 80, 0)
NAME = "virtual service tcp 192.0.2.1:80: "


def problems(held: HeldService | None = None, **options: Any) -> list[str]:
    with pytest.raises(InvalidVirtualServiceError) as refusal:
        wanted_service(parse_request({**DEFAULTS, **options}), held)
    return str(refusal.value).splitlines()


def wanted(held: HeldService | None = None, **options: Any) -> HeldService | None:
    return wanted_service(parse_request({**DEFAULTS, **options}), held)


def held(**settings: Any) -> HeldService:
    return HeldService(VirtualService(KEY, "rr", (), 0, 32, False)._replace(**settings), {})


def to(**destination: Any) -> dict[str, Any]:
    return {**WEB, "destinations": [{"address": "10.0.0.1", **destination}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "virtual service: address is null and fwmark is null: must be one of both, and the other left out"),
    (
        {**WEB, "fwmark": 1},
        'virtual service: address is "192.0.2.1" and fwmark is 1: must be one of both, and the other left out',
    ),
    ({"address": "web", "port": 80}, 'virtual service: address is "web": must be an IPv4 or IPv6 address'),
    ({"address": "192.0.2.1"}, "virtual service: port is missing: must be an integer from 0 to 65535"),
    ({"address": "192.0.2.1", "port": 65536}, "virtual service: port is 65536: must be an integer from 0 to 65535"),
    ({"fwmark": 0}, "virtual service: fwmark is 0: must be an integer from 1 to 4294967295"),
    (
        {"fwmark": 1, "port": 80},
        "virtual service: port is 80: must be left out with fwmark, which takes packets of all ports",
    ),
    ({**WEB, "family": "ipv6"}, 'virtual service: family is "ipv6": must be ipv4, the address\'s, or left out'),
    (
        {**WEB, "persistence_timeout": 2678401},
        NAME + "persistence_timeout is 2678401: must be an integer from 0 to 2678400",
    ),
    ({**WEB, "drain_timeout": -1}, NAME + "drain_timeout is -1: must be an integer from 0 to 2678400"),
    (
        {**WEB, "persistence_timeout": 9, "netmask": "33"},
        NAME + 'netmask is "33": must be a prefix length from 0 to 32, or a mask such as 255.255.255.0',
    ),
    (
        {**WEB, "persistence_timeout": 9, "netmask": "255.0.255.0"},
        NAME + 'netmask is "255.0.255.0": must be a mask with all its ones at the front, such as 255.255.255.0',
    ),
    (
        {"address": "fd00::1", "port": 80, "persistence_timeout": 9, "netmask": "255.255.0.0"},
        'virtual service tcp [fd00::1]:80: netmask is "255.255.0.0": must be a prefix length from 1 to 128',
    ),
    ({**WEB, "netmask": "24"}, NAME + "netmask is 24: must be left out without persistence_timeout"),
    (
        {"address": "192.0.2.1", "port": 0},
        "virtual service tcp 192.0.2.1:0: port is 0: must be from 1 to 65535 without persistence_timeout",
    ),
    (
        {**WEB, "one_packet": True},
        NAME + "one_packet is true: must be false with protocol tcp: only udp and fwmark have it",
    ),
    ({**WEB, "scheduler_flags": ["sh-port"]}, NAME + "scheduler_flags has sh-port: must be empty with scheduler wlc"),
    (
        {**WEB, "scheduler": "mh", "scheduler_flags": ["sh-port"]},
        NAME + "scheduler_flags has sh-port: must be mh-fallback or mh-port with scheduler mh",
    ),
    (
        {**WEB, "exclusive": True},
        NAME + "exclusive is true: must be given together with destinations; an empty list leaves none",
    ),
    (
        {**WEB, "exclusive": True, "destinations": [], "state": "absent"},
        NAME + "exclusive is true: must be false with state absent, which removes the destinations that are given",
    ),
    (to(address="10.0.0"), NAME + 'destinations[0]: address is "10.0.0": must be an IPv4 or IPv6 address'),
    (
        to(address="224.0.0.1"),
        NAME
        + 'destinations[0]: address is "224.0.0.1": must be an address of a host, which this is not: it is a multicast address',
    ),
    (to(port=70000), NAME + "destinations[0]: port is 70000: must be an integer from 0 to 65535"),
    (to(weight=-1), NAME + "destinations[0]: weight is -1: must be an integer from 0 to 65535"),
    (
        to(forward_method="nat"),
        NAME + 'destinations[0]: forward_method is "nat": must be one of masquerade, direct, tunnel',
    ),
    (
        to(upper=1),
        NAME
        + 'destinations[0]: "upper" is not a known key (its value is 1): allowed are address, port, forward_method, weight, '
        "upper_threshold, lower_threshold",
    ),
    (
        to(port=81, forward_method="direct"),
        NAME
        + "destination 10.0.0.1:81: port is 81: must be 80, the virtual service's own, with forward_method direct, which "
        "changes no port",
    ),
    (
        {"fwmark": 7, "destinations": [{"address": "10.0.0.1", "port": 81, "forward_method": "tunnel"}]},
        (
            "virtual service fwmark 7 (ipv4): destination 10.0.0.1:81: port is 81: must be left out with forward_method tunnel, which "
            "changes no port"
        ),
    ),
    (
        to(address="fd00::1"),
        NAME
        + "destination [fd00::1]:80: forward_method is masquerade: must be tunnel for a destination of another address family",
    ),
    (
        to(lower_threshold=5),
        NAME + "destination 10.0.0.1:80: lower_threshold is 5: must be at most upper_threshold, which is 0",
    ),
    (
        {**WEB, "destinations": [{"address": "fd00::1"}, {"address": "fd00:0::1", "port": 80}]},
        NAME + "destinations has [fd00::1]:80 twice: must be given once",
    ),
]


@pytest.mark.parametrize(("options", "line"), REFUSED, ids=[line[:60] for dummy, line in REFUSED])
def test_a_refusal_names_the_service_the_option_its_value_and_what_is_allowed(
    options: dict[str, Any], line: str
) -> None:
    assert problems(**options)[0] == line


def test_all_errors_are_named_at_once() -> None:
    destinations = [{"weight": 1}, {"address": "10.0.0.1", "weight": "x", "port": -1}]
    lines = problems(
        address="web", port=-1, drain_timeout=-1, netmask="x", destinations=destinations, exclusive=True, state="absent"
    )
    assert len(lines) == 8, lines


def test_errors_against_what_is_there_are_found_too() -> None:
    assert problems(held(scheduler="sh"), **WEB, scheduler_flags=["mh-port"]) == [
        NAME + "scheduler_flags has mh-port: must be sh-fallback or sh-port with scheduler sh"
    ]
    limited = Destination("10.0.0.1", 80, "masquerade", 1, 10, 5)
    there = HeldService(held().service, {("10.0.0.1", 80): limited})
    assert problems(there, **to(upper_threshold=4)) == [
        NAME + "destination 10.0.0.1:80: lower_threshold is 5: must be at most upper_threshold, which is 4"
    ]


@pytest.mark.parametrize(("family", "length"), [("ipv4", 32), ("ipv6", 128)])
def test_a_mark_is_a_virtual_service_without_protocol_and_address(family: str, length: int) -> None:
    made = wanted(fwmark=7, family=family)
    assert made == HeldService(VirtualService(ServiceKey(family, "", "", 0, 7), "wlc", (), 0, length, False), {})


def test_loopback_can_serve() -> None:
    """A server of the host itself."""
    made = wanted(**to(address="127.0.0.1"))
    assert made is not None
    assert list(made.destinations) == [("127.0.0.1", 80)]


@pytest.mark.parametrize(
    ("given", "length"), [("0", 0), ("0.0.0.0", 0), ("128.0.0.0", 1), ("255.255.255.255", 32), (24, 24), ("24", 24)]
)
def test_netmasks(given: Any, length: int) -> None:
    made = wanted(**WEB, persistence_timeout=1, netmask=given)
    assert made is not None
    assert made.service.netmask == length


def test_what_is_not_given_is_as_it_is() -> None:
    there = held(
        scheduler="sh", scheduler_flags=("sh-port",), persistence_timeout=9, netmask=24, persistence_engine="sip"
    )
    assert wanted(there, **WEB) == there
    changed = wanted(there, **WEB, scheduler="rr", persistence_timeout=0)
    assert changed == held(), "flags belong to the scheduler, netmask and engine to persistence"


def test_null_is_as_if_it_were_not_given() -> None:
    assert parse_request({**DEFAULTS, **WEB, "exclusive": None, "drain_timeout": None}) == parse_request(
        {**DEFAULTS, **WEB}
    )


def test_a_tunnel_is_encapsulated_as_it_was_until_there_is_none() -> None:
    tunneled = Destination("10.0.0.1", 80, "tunnel", 1, tunnel=(1, 6080, 0))
    there = HeldService(held().service, {("10.0.0.1", 80): tunneled})
    for given, tunnel in (({"weight": 5}, (1, 6080, 0)), ({"forward_method": "masquerade"}, (0, 0, 0))):
        made = wanted(there, **to(**given))
        assert made is not None
        assert made.destinations["10.0.0.1", 80].tunnel == tunnel


def test_absent_takes_what_is_given() -> None:
    one, other = Destination("10.0.0.1", 80, "masquerade", 1), Destination("10.0.0.2", 80, "masquerade", 1)
    there = HeldService(held().service, {(each.address, each.port): each for each in (one, other)})
    assert wanted(there, **WEB, state="absent") is None
    left = wanted(there, **to(), state="absent")
    assert left is not None
    assert list(left.destinations.values()) == [other]
    assert wanted(there, **WEB, destinations=[], state="absent") == there
    assert wanted(None, **to(), state="absent") is None


@pytest.mark.parametrize(("exclusive", "left"), [(False, {"10.0.0.1", "10.0.0.2"}), (True, {"10.0.0.1"})])
def test_exclusive_leaves_no_others(exclusive: bool, left: set[str]) -> None:
    other = Destination("10.0.0.2", 80, "masquerade", 1)
    made = wanted(HeldService(held().service, {("10.0.0.2", 80): other}), **to(), exclusive=exclusive)
    assert made is not None
    assert {address for address, dummy in made.destinations} == left
