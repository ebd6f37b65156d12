# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Spellings of elements and entries, and their way through the messages to the kernel."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import ipset_messages as wire
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import (
    attribute,
    attributes,
    each_attribute,
    nested,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    SET_TYPES,
    Entry,
    SetHeader,
    add_line,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.entries import (
    InvalidSetError,
    parse_entries,
)


def header(type_name: str, family: str = "ipv4") -> SetHeader:
    known = SET_TYPES[type_name].has_family
    return SetHeader("s", type_name, family if known else "", timeout=0, counters=True, comment=True)


def elements(type_name: str, *written: Any, family: str = "ipv4") -> list[str]:
    return list(parse_entries(header(type_name, family), written))


@pytest.mark.parametrize(
    ("type_name", "family", "written", "found"),
    [
        ("hash:ip", "ipv4", "10.0.0.254-10.0.1.1", ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]),
        ("hash:ip", "ipv4", "10.0.0.7/30", ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]),
        ("hash:ip", "ipv6", "2001:DB8::/127", ["2001:db8::", "2001:db8::1"]),
        ("hash:ip", "ipv6", "[::FFFF:1.2.3.4]", ["::ffff:1.2.3.4"]),
        ("hash:net", "ipv4", "10.0.0.0-10.0.0.6", ["10.0.0.0/30", "10.0.0.4/31", "10.0.0.6"]),
        ("hash:net", "ipv4", "10.9.9.9/8", ["10.0.0.0/8"]),
        ("hash:net", "ipv4", "10.9.9.9/32", ["10.9.9.9"]),
        ("hash:net", "ipv6", "fd00:0::1/128", ["fd00::1"]),
        ("hash:ip,port", "ipv4", "10.0.0.1,1-3", ["10.0.0.1,tcp:1", "10.0.0.1,tcp:2", "10.0.0.1,tcp:3"]),
        ("hash:ip,port", "ipv4", "10.0.0.1,UDP:007", ["10.0.0.1,udp:7"]),
        ("hash:ip,port", "ipv4", "10.0.0.1,6:80-81", ["10.0.0.1,tcp:80", "10.0.0.1,tcp:81"]),
        ("hash:ip,port", "ipv6", "fd00::1,58:135/0", ["fd00::1,icmpv6:135/0"]),
        ("hash:ip,port", "ipv6", "fd00::1,ipv6-icmp:135/0", ["fd00::1,icmpv6:135/0"]),
        ("hash:ip,port,ip", "ipv4", "0.0.0.0,80,0.0.0.0", ["0.0.0.0,tcp:80,0.0.0.0"]),
        (
            "hash:ip,port,net",
            "ipv4",
            "10.0.0.1,80,10.0.0.0-10.0.0.2",
            ["10.0.0.1,tcp:80,10.0.0.0/31", "10.0.0.1,tcp:80,10.0.0.2"],
        ),
        ("bitmap:port", "", 80, ["80"]),
        ("bitmap:port", "", "tcp:80-82", ["80", "81", "82"]),
        ("list:set", "", "a-b/c", ["a-b/c"]),
    ],
)
def test_spellings(type_name: str, family: str, written: Any, found: list[str]) -> None:
    assert elements(type_name, written, family=family) == found


def test_dicts_and_strings_say_the_same() -> None:
    found = parse_entries(header("hash:net"), ['10.0.0.0/8 timeout 5 nomatch comment "a  b" packets 1 bytes 2'])
    one = found["10.0.0.0/8"]
    written = {"entry": "10.0.0.0/8", "timeout": "5", "nomatch": "yes", "comment": "a  b", "packets": 1, "bytes": 2}
    assert parse_entries(header("hash:net"), [written]) == found == {"10.0.0.0/8": one}
    assert one == Entry("10.0.0.0/8", 5, "a  b", 1, 2, nomatch=True)
    assert add_line("s", one) == 'add s 10.0.0.0/8 timeout 5 nomatch packets 1 bytes 2 comment "a  b"'


def test_the_same_entry_twice_is_one_and_other_options_are_refused() -> None:
    assert elements("hash:ip", "10.0.0.1", "10.0.0.1/32", "10.0.0.0-10.0.0.1") == ["10.0.0.1", "10.0.0.0"]
    with pytest.raises(InvalidSetError, match=r"an entry before it gives 10\.0\.0\.1 other options"):
        elements("hash:ip", "10.0.0.0/31", "10.0.0.1 timeout 3")


@pytest.mark.parametrize(
    "port", ["", "-", "1-", "-1", "65536", "0x50", "8080.0", "٣", "tcp:", ":80", "tcp:80:81", "1-2-3"]
)
def test_no_ports(port: str) -> None:
    with pytest.raises(InvalidSetError):
        elements("hash:ip,port", f"10.0.0.1,{port}")
    with pytest.raises(InvalidSetError):
        elements("bitmap:port", port)


@pytest.mark.parametrize(
    "address",
    "10.0.0.1/ /8 10.0.0.1/-1 10.0.0.1- -10.0.0.1 10.0.0.1-10.0.0.2-10.0.0.3 1.2.3 10.0.0.0/8/8 [10.0.0.1] fe80::1%eth0".split(),
)
def test_no_addresses(address: str) -> None:
    for type_name in ("hash:ip", "hash:net"):
        with pytest.raises(InvalidSetError):
            elements(type_name, address)


ENTRIES = [
    ("hash:ip", Entry("10.0.0.1", 5, "größer", 1, 1 << 40)),
    ("hash:net", Entry("10.0.0.0/8", 0, None, 0, 0, nomatch=True)),
    ("hash:net", Entry("fd00::", nomatch=True)),
    ("hash:net,port", Entry("fd00::/8,icmpv6:135/2")),
    ("hash:ip,port,ip", Entry("10.0.0.1,sctp:65535,10.0.0.2", 2147483)),
    ("hash:ip,port,net", Entry("fd00::1,47:0,fd01::/16")),
    ("hash:ip,port,net", Entry("10.0.0.1,udp:53,10.0.0.9")),
    ("bitmap:port", Entry("8080", comment="x")),
    ("list:set", Entry("other")),
]


@pytest.mark.parametrize(("type_name", "entry"), ENTRIES)
def test_what_is_encoded_is_decoded(type_name: str, entry: Entry) -> None:
    encoded = wire.encode_entry(SET_TYPES[type_name].parts, entry, 77)
    ((kind, payload),) = each_attribute(encoded)
    assert kind == wire.ATTR_DATA
    assert struct.unpack("=I", attributes(payload)[wire.ATTR_LINENO]) == (77,)
    assert wire.entry_decoder(header(type_name))(payload) == entry


def test_attributes_are_padded_and_parsed_up_to_where_they_break_off() -> None:
    payload = attribute(1, b"a") + nested(2, attribute(3, b"bcd"))
    assert len(payload) % 4 == 0
    assert attributes(payload) == {1: b"a", 2: attribute(3, b"bcd")}
    assert list(each_attribute(payload + b"\0\0\0\0")) == list(each_attribute(payload))
