# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first packet of an SCTP association by hand, for kernels that track SCTP but have no sockets for it (RFC 9260)."""

from __future__ import annotations

import struct

IPPROTO_SCTP = 132
_CRC32C = 0x82F63B78
_INIT, _INIT_LENGTH = 1, 20
_VERIFICATION_TAG, _WINDOW, _STREAMS, _FIRST_TSN = 0x4C345350, 65536, 1, 1


def crc32c(octets: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for octet in octets:
        value ^= octet
        for _bit in range(8):
            value = (value >> 1) ^ (_CRC32C if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def init_packet(source_port: int, destination_port: int) -> bytes:
    """An SCTP packet with an INIT chunk and a right checksum."""
    ports = struct.pack("!HHI", source_port, destination_port, 0)
    fields = (_INIT, 0, _INIT_LENGTH, _VERIFICATION_TAG, _WINDOW, _STREAMS, _STREAMS, _FIRST_TSN)
    chunk = struct.pack("!BBHIIHHI", *fields)
    checksum = crc32c(ports + bytes(4) + chunk)
    return ports + struct.pack("<I", checksum) + chunk


def ports_of(packet: bytes) -> tuple[int, int]:
    """Source and destination port of an SCTP packet as a raw socket hands it over, with its IPv4 header or without one."""
    if packet[0] >> 4 == 4 and packet[9] == IPPROTO_SCTP:
        packet = packet[(packet[0] & 15) * 4 :]
    source, destination = struct.unpack_from("!HH", packet)
    return source, destination
