# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects in the words of their tools: ipset save, ipvsadm -Sn, iptables-save, nft."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    Entry,
    InvalidSetError,
    SetHeader,
    add_line,
    create_line,
    is_hash,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import parse_tables
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    Destination,
    ServiceKey,
    VirtualService,
    destination_line,
    flag_number,
    service_line,
    service_name,
    sort_key,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Bits,
    Element,
    Match,
    Nat,
    Table,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import SetHeader as MapHeader
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_rule_text import statement_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import (
    concatenation_text,
    sorted_elements,
    table_text,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import TYPES, pack, unpack

V4, V6 = ServiceKey("ipv4", "tcp", "192.0.2.1", 80, 0), ServiceKey("ipv6", "udp", "2001:db8::1", 53, 0)
MARK4, MARK6 = ServiceKey("ipv4", "", "", 0, 7), ServiceKey("ipv6", "", "", 0, 7)
SCTP = ServiceKey("ipv4", "sctp", "192.0.2.1", 80, 0)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (SetHeader("a", "hash:ip", "ipv4"), "create a hash:ip family inet"),
        (SetHeader("a", "list:set"), "create a list:set"),
        (SetHeader("a", "bitmap:port", ports=(1, 9)), "create a bitmap:port range 1-9"),
        (
            SetHeader("a", "hash:net", "ipv6", 0, True, True, 64, 5, bucketsize=12, forceadd=True),
            "create a hash:net family inet6 hashsize 64 maxelem 5 timeout 0 counters comment forceadd bucketsize 12",
        ),
    ],
)
def test_a_set(header: SetHeader, line: str) -> None:
    assert create_line(header) == line


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (Entry("10.0.0.1"), "add a 10.0.0.1"),
        (Entry("10.0.0.1", 0, "x y", 0, 7, True), 'add a 10.0.0.1 timeout 0 nomatch packets 0 bytes 7 comment "x y"'),
        (Entry("10.0.0.1", comment=""), "add a 10.0.0.1"),
    ],
)
def test_an_entry(entry: Entry, line: str) -> None:
    assert add_line("a", entry) == line


def test_errors_of_sets_are_counted_from_the_eleventh() -> None:
    ten, eleven = [f"p{number}" for number in range(10)], [f"p{number}" for number in range(11)]
    assert str(InvalidSetError(ten)).splitlines() == ten
    assert str(InvalidSetError(eleven)).splitlines() == [*ten, "and 1 more"]
    assert InvalidSetError(eleven).problems == eleven
    assert (is_hash("hash:ip"), is_hash("list:set")) == (True, False)


@pytest.mark.parametrize(
    ("service", "line"),
    [
        (VirtualService(V4, "wlc", (), 0, 32, False), "-A -t 192.0.2.1:80 -s wlc"),
        (VirtualService(V6, "rr", (), 0, 128, True), "-A -u [2001:db8::1]:53 -s rr -o"),
        (VirtualService(SCTP, "rr", (), 0, 32, False), "-A --sctp-service 192.0.2.1:80 -s rr"),
        (VirtualService(MARK4, "rr", (), 9, 32, False), "-A -f 7 -s rr -p 9"),
        (VirtualService(MARK6, "rr", (), 9, 128, False), "-A -f 7 -6 -s rr -p 9"),
        (
            VirtualService(V4, "sh", ("sh-fallback", "sh-port"), 300, 20, False, "sip"),
            "-A -t 192.0.2.1:80 -s sh -p 300 -M 255.255.240.0 --pe sip -b sh-fallback,sh-port",
        ),
        (VirtualService(V4, "rr", (), 300, 1, False), "-A -t 192.0.2.1:80 -s rr -p 300 -M 128.0.0.0"),
        (
            VirtualService(V6, "wlc", ("flag-1", "flag-3"), 5, 64, False),
            "-A -u [2001:db8::1]:53 -s wlc -p 5 -M 64 -b flag-1,flag-3",
        ),
        (VirtualService(V4, "rr", (), 0, 24, False, "sip"), "-A -t 192.0.2.1:80 -s rr"),
    ],
)
def test_a_virtual_service(service: VirtualService, line: str) -> None:
    assert service_line(service) == line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("10.0.0.1", 80, "masquerade", 1), "-r 10.0.0.1:80 -m -w 1"),
        (("fd00::1", 80, "direct", 0, 9, 4), "-r [fd00::1]:80 -g -w 0 -x 9 -y 4"),
        (("10.0.0.1", 80, "tunnel", 1), "-r 10.0.0.1:80 -i -w 1 --tun-type ipip"),
        (
            ("10.0.0.1", 80, "tunnel", 1, 0, 0, (1, 6080, 1)),
            "-r 10.0.0.1:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
        ),
        (("10.0.0.1", 80, "tunnel", 1, 0, 0, (2, 5, 0)), "-r 10.0.0.1:80 -i -w 1 --tun-type gre --tun-nocsum"),
        (("10.0.0.1", 80, "tunnel", 1, 0, 0, (2, 0, 2)), "-r 10.0.0.1:80 -i -w 1 --tun-type gre --tun-remcsum"),
        (("10.0.0.1", 80, "tunnel", 1, 0, 0, (9, 0, 9)), "-r 10.0.0.1:80 -i -w 1 --tun-type 9 9"),
        (("10.0.0.1", 80, "masquerade", 1, 0, 0, (1, 6080, 1)), "-r 10.0.0.1:80 -m -w 1"),
    ],
)
def test_a_destination(given: tuple[Any, ...], words: str) -> None:
    assert destination_line(V4, Destination(*given)) == f"-a -t 192.0.2.1:80 {words}"


def test_names_and_order_of_virtual_services() -> None:
    assert [service_name(key) for key in (V4, V6, MARK6)] == [
        "tcp 192.0.2.1:80",
        "udp [2001:db8::1]:53",
        "fwmark 7 (ipv6)",
    ]
    later = V4._replace(address="192.0.10.1"), V4._replace(port=81), V4._replace(protocol="udp")
    keys = [V4, later[2], later[1], later[0], MARK4, MARK4._replace(fwmark=8), V6, MARK6]
    assert sorted([*keys[3:], *keys[:3]], key=sort_key) == keys
    assert [flag_number(flag) for flag in ("sh-fallback", "sh-port", "mh-port", "flag-3")] == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="other"):
        flag_number("other")


def test_rules_by_table_and_chain() -> None:
    text = '# c\n*nat\n:A - [0:0]\n-A A -j B\n-A B -m comment --comment "x -A C y" -j C\nCOMMIT\n*filter\n-A A -j D\nCOMMIT\n'
    assert parse_tables(text) == {
        ("nat", "A"): ["-j B"],
        ("nat", "B"): ['-m comment --comment "x -A C y" -j C'],
        ("filter", "A"): ["-j D"],
    }
    assert parse_tables("-P INPUT ACCEPT\n-N L4\n-A L4 -j B\n") == {("", "INPUT"): [], ("", "L4"): ["-j B"]}


def test_a_table_of_nftables() -> None:
    assert table_text(Table("inet", "t", {}, {}, {})) == "table inet t {\n}\n"
    shown = table_text(Table("ip", "t", {}, {}, {})._replace(comment="x", is_dormant=True))
    assert shown == 'table ip t {\n\tcomment "x"\n\tflags dormant\n}\n'


VALUES = [
    ("ipv4_addr", "10.0.0.1", bytes([10, 0, 0, 1])),
    ("ipv6_addr", "fd00::1", bytes([0xFD, *[0] * 14, 1])),
    ("inet_proto", "tcp", b"\x06"),
    ("inet_proto", "99", b"\x63"),
    ("inet_service", "8080", b"\x1f\x90"),
    ("tcp_flag", "fin,syn,rst,ack", bytes([1 | 2 | 4 | 16])),
    ("ct_dir", "reply", b"\x01"),
    ("pkt_type", "broadcast", b"\x01"),
    ("ct_id", "258", b"\0\0\x01\x02"),
    ("ifname", '"eth0"', b"eth0" + bytes(12)),
    ("ifname", '"eth*"', b"eth"),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_value_of_nftables(name: str, text: str, value: bytes) -> None:
    assert pack(name, text) == value
    assert unpack(name, value) == text


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("integer", "258", 258),
        ("mark", "0x00004000", 0x4000),
        ("iface_index", "7", 7),
        ("ct_state", "invalid,established,new", 1 | 2 | 8),
        ("ct_status", "snat,dnat", 48),
        ("fib_addrtype", "local", 2),
        ("fib_addrtype", "77", 77),
    ],
)
def test_a_number_of_nftables_is_in_the_hosts_order(name: str, text: str, number: int) -> None:
    kind = TYPES[name]
    value = number.to_bytes(4, sys.byteorder)
    assert (pack(name, text), unpack(name, value), kind.size, kind.is_host_order) == (value, text, 4, True)


def test_bits_without_names_are_a_number() -> None:
    assert unpack("tcp_flag", b"\0") == "0x0"
    assert unpack("ct_status", (4096 | 32).to_bytes(4, sys.byteorder)) == "0x1020"
    assert [(kind.number, kind.size, kind.is_host_order) for kind in (TYPES["inet_proto"], TYPES["tcp_flag"])] == [
        (12, 1, False),
        (15, 1, False),
    ]


def test_the_name_of_an_interface_may_be_of_any_bytes() -> None:
    assert unpack("ifname", b"eth\xff" + bytes(12)) == '"eth\ufffd"'


@pytest.mark.parametrize(
    ("mask", "xor", "text"),
    [
        ("syn", "", "tcp flags & syn"),
        ("fin,syn", "", "tcp flags & (fin | syn)"),
        (0xFF, "syn", "tcp flags ^ syn"),
        (0xFD, "syn", "tcp flags | syn"),
        ("syn", "ack", "tcp flags & syn ^ ack"),
    ],
)
def test_an_operation_on_bits(mask: Any, xor: str, text: str) -> None:
    kept = bytes([mask]) if isinstance(mask, int) else pack("tcp_flag", mask)
    bits = Bits("tcp flags", kept, pack("tcp_flag", xor)) if xor else Bits("tcp flags", kept)
    assert statement_text(Match(bits, pack("tcp_flag", "syn"))) == f"{text} == syn"


def test_elements_and_addresses_of_nftables() -> None:
    backend = bytes([10, 0, 0, 1, 0x1F, 0x90, 0, 0])
    assert concatenation_text(["ipv4_addr", "inet_service"], backend) == "10.0.0.1 . 8080"
    header = MapHeader(("inet_service",), ("ipv4_addr", "inet_service"))
    texts = sorted_elements(header, {b"\0\x51": Element(backend), b"\0\x50": Element(backend, "x", 60000)})
    assert texts == ['80 timeout 1m comment "x" : 10.0.0.1 . 8080', "81 : 10.0.0.1 . 8080"]
    assert sorted_elements(MapHeader(("inet_service",)), {b"\0\x50": Element()}) == ["80"]
    assert statement_text(Nat("dnat", bytes([10, 0, 0, 1]), b"\x1f\x90")) == "dnat to 10.0.0.1:8080"
    assert statement_text(Nat("snat", bytes([0xFD, *[0] * 14, 1]), family="ip6")) == "snat to fd00::1"
