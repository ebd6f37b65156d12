# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SCTP, on kernels with and without sockets for it: the first packet of an association, sent and received raw."""

from __future__ import annotations

import socket
from itertools import count
from typing import Any

import pytest
from network import ADDRESSES, IPV4, Network, backends, external_ip, vip

from lab.sctp import IPPROTO_SCTP, crc32c, init_packet, ports_of

PORT = 36412
UNREACHABLE = {"ipv4": (3, 3), "ipv6": (1, 4)}
PATIENCE = 3.0
SOURCE_PORTS = count(40000)
"""One each: an association that conntrack knows goes where its first packet went."""


def _web(family: str, *names: str) -> dict[str, Any]:
    common = {"name": "amf", "vip": vip(1, family), "port": PORT, "protocol": "sctp", "node_port": 30412}
    return {**common, "external_ips": [external_ip(1, family)], "backends": backends(*names, family=family)}


def _raw(network: Network, host: str, family: str, protocol: int) -> socket.socket:
    kind = socket.AF_INET if family == IPV4 else socket.AF_INET6
    made = network.hosts[host].socket(kind, socket.SOCK_RAW, protocol)
    made.settimeout(PATIENCE)
    return made


def _arrives(network: Network, family: str, source: str, address: str, port: int) -> tuple[str, int]:
    """An association that `source` begins: from where b12 sees it come, and at which port."""
    with _raw(network, "b12", family, IPPROTO_SCTP) as backend, _raw(network, source, family, IPPROTO_SCTP) as client:
        client.sendto(init_packet(next(SOURCE_PORTS), port), (address, 0))
        packet, peer = backend.recvfrom(2048)
    return peer[0], ports_of(packet)[1]


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.semantics(1)
@pytest.mark.semantics(11)
def test_an_sctp_association_reaches_a_backend_through_the_vip(network: Network, family: str) -> None:
    network.applied([_web(family, "b12")])
    own = {ADDRESSES[name][family] for name in ("node1", "bridge1")}
    assert _arrives(network, family, "b11", vip(1, family), PORT) == (ADDRESSES["b11"][family], 8080)
    address, port = _arrives(network, family, "client", vip(1, family), PORT)
    assert (address in own, port) == (True, 8080)


@pytest.mark.semantics(3)
@pytest.mark.semantics(13)
def test_an_sctp_association_reaches_a_backend_by_external_address_and_node_port(network: Network, family: str) -> None:
    network.applied([_web(family, "b12")])
    own = {ADDRESSES[name][family] for name in ("node1", "bridge1")}
    for target, port in ((external_ip(1, family), PORT), (ADDRESSES["node1"][family], 30412)):
        address, arrived_at = _arrives(network, family, "client", target, port)
        assert (address in own, arrived_at) == (True, 8080)


@pytest.mark.semantics(16)
def test_an_sctp_association_without_backends_is_rejected(network: Network, family: str) -> None:
    network.applied([_web(family)])
    protocol = socket.IPPROTO_ICMP if family == IPV4 else socket.IPPROTO_ICMPV6
    for target, port in ((vip(1, family), PORT), (external_ip(1, family), PORT), (ADDRESSES["node1"][family], 30412)):
        with (
            _raw(network, "client", family, protocol) as errors,
            _raw(network, "client", family, IPPROTO_SCTP) as client,
        ):
            client.sendto(init_packet(next(SOURCE_PORTS), port), (target, 0))
            assert _is_port_unreachable(errors, family)


def _is_port_unreachable(errors: socket.socket, family: str) -> bool:
    """Whether an ICMP port unreachable comes, among whatever else does (neighbour discovery)."""
    while True:
        try:
            packet = errors.recv(2048)
        except TimeoutError:
            return False
        header = packet[(packet[0] & 15) * 4 :] if family == IPV4 else packet
        if (header[0], header[1]) == UNREACHABLE[family]:
            return True
