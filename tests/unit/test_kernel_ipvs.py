# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The messages of IPVS without a kernel: as old and new kernels send them."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs_messages import (
    decode_destination,
    decode_service,
    encode_change,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs_users import users
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import attribute, nested
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    AddService,
    Destination,
    ServiceKey,
    VirtualService,
    destination_line,
    service_line,
)

KEY = ServiceKey("ipv4", "tcp", "192.0.2.1", 80, 0)
SERVICE = VirtualService(KEY, "wrr", (), 0, 32, False)


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def body(*attributes: bytes) -> bytes:
    return b"\x01\x01\0\0" + nested(1, *attributes)


def address(kind: int, text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return attribute(kind, socket.inet_pton(family, text).ljust(16, b"\0"))


DESTINATION = [
    address(1, "10.0.0.1"),
    u16(2, socket.htons(8080)),
    u32(3, 3),
    u32(4, 5),
    u32(5, 100),
    u32(6, 50),
    u32(7, 4),
    u32(8, 2),
    u32(9, 0),
]
DECODED = Destination("10.0.0.1", 8080, "direct", 5, 100, 50)


def test_a_destination_of_a_kernel_before_address_families_and_tunnels() -> None:
    """Linux 3.17 has neither IPVS_DEST_ATTR_ADDR_FAMILY nor IPVS_DEST_ATTR_TUN_TYPE."""
    assert decode_destination(body(*DESTINATION), "ipv4") == (DECODED, 4, 2)


def test_a_destination_of_a_kernel_with_attributes_that_come_later() -> None:
    later = [
        attribute(99, b"later"),
        u16(11, socket.AF_INET),
        attribute(13, b"\1"),
        u16(14, socket.htons(6080)),
        u16(15, 1),
    ]
    tunnelled = DECODED._replace(tunnel=(1, 6080, 1))
    assert decode_destination(body(*DESTINATION, *later), "ipv6") == (tunnelled, 4, 2)


def test_the_order_of_attributes_is_the_kernels_own() -> None:
    """The same length as another order that was seen before."""
    assert decode_destination(body(*DESTINATION), "ipv4")[0] == DECODED
    assert decode_destination(body(*reversed(DESTINATION)), "ipv4")[0] == DECODED
    assert decode_destination(body(*DESTINATION), "ipv4")[0] == DECODED


def service_body(scheduler: str, flags: int, *more: bytes) -> bytes:
    return body(
        u16(1, socket.AF_INET),
        u16(2, 6),
        address(3, "192.0.2.1"),
        u16(4, socket.htons(80)),
        attribute(6, scheduler.encode() + b"\0"),
        attribute(7, struct.pack("=II", flags, 0xFFFFFFFF)),
        u32(8, 300),
        u32(9, socket.htonl(0xFFFFFF00)),
        *more,
    )


def test_names_of_equal_length_in_sum_are_told_apart() -> None:
    """A scheduler of nine letters is as long as one of two with an engine."""
    long, short = service_body("scheduler", 3), service_body("rr", 3, attribute(11, b"sip\0"))
    assert len(long) == len(short)
    for _again in range(2):
        assert decode_service(long)[1::5] == ("scheduler", "")
        assert decode_service(short)[1::5] == ("rr", "sip")


def test_what_means_nothing_without_persistence_is_not_seen() -> None:
    """The flag decides; hashed (0x2) is the kernel's own, and unknown ones are left to it."""
    assert decode_service(service_body("wrr", 0x1002)) == SERVICE
    assert decode_service(service_body("wrr", 0x3)) == SERVICE._replace(persistence_timeout=300, netmask=24)


@pytest.mark.parametrize(
    ("scheduler", "bits", "flags"),
    [
        ("sh", 0b011, ("sh-fallback", "sh-port")),
        ("mh", 0b010, ("mh-port",)),
        ("rr", 0b111, ("flag-1", "flag-2", "flag-3")),
        ("sh", 0b101, ("flag-3", "sh-fallback")),
    ],
)
def test_scheduler_flags(scheduler: str, bits: int, flags: tuple[str, ...]) -> None:
    decoded = decode_service(service_body(scheduler, bits << 3))
    assert decoded.scheduler_flags == flags
    sent = encode_change(AddService(decoded))
    assert struct.pack("=HHII", 12, 7, bits << 3, 0x3D) in sent, "flags, and the mask of those that are written"


def test_lines_have_thresholds_and_tunnels() -> None:
    tunnelled = Destination("fd00::1", 80, "tunnel", 1, 10, 5, (1, 6080, 2))
    assert destination_line(KEY, tunnelled) == (
        "-a -t 192.0.2.1:80 -r [fd00::1]:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum -x 10 -y 5"
    )
    flagged = SERVICE._replace(scheduler="sh", scheduler_flags=("flag-3", "sh-fallback"))
    assert service_line(flagged) == "-A -t 192.0.2.1:80 -s sh -b sh-fallback,flag-3"


_TABLE = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00000007 lc
  -> 0A000001:1F90      Masq    1      0          0
TCP  [fd96:0000:0000:0000:0000:0000:0000:0001]:0050 wrr
  -> [fd00:0000:0000:0000:0000:0000:0000:00ab]:1F90      Masq    1      0          0
  -> 0A000001:1F90      Tunnel  1      0          0
UDP  0A600001:0050 wrr ops persistent 300 FFFFFFFF
  -> 0A000001:1F91      Masq    1      0          0
  -> 0A000001:1F90      Masq    0      0          0
TCP  0A600002:0050 wrr
UDP  0A600002:0050 wrr
  -> 0A000001:1F90      Masq    1      0          0
"""


def test_the_table_for_people_tells_who_leads_to_a_destination(tmp_path: Path) -> None:
    tmp_path.joinpath("table").write_text(_TABLE)
    asked = [("tcp", "fd00::ab", 8080), ("udp", "10.0.0.1", 8080), ("tcp", "10.0.0.1", 8080), ("tcp", "10.0.0.1", 8081)]
    ipv6, *udp = (
        ServiceKey("ipv6", "tcp", "fd96::1", 80, 0),
        *(ServiceKey("ipv4", "udp", f"10.96.0.{number}", 80, 0) for number in (1, 2)),
    )
    assert users(asked, tmp_path / "table") == [
        (asked[0], ipv6),
        (asked[2], ipv6),
        (asked[1], udp[0]),
        (asked[1], udp[1]),
    ]
    assert users([], tmp_path / "table") == []
    assert users(asked, tmp_path / "nowhere") is None
