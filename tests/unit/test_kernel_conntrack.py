# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers of the kernel decoded, and its refusals told; the kernel itself is in the integration tests."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import conntrack as subject
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import (
    NetlinkError,
    attribute,
    nested,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow

UDP, TCP, ICMP = 17, 6, 1


def _tuple(kind: int, source: tuple[str, int], destination: tuple[str, int], protocol: int) -> bytes:
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    first = 3 if family == socket.AF_INET6 else 1
    ends = [attribute(first + i, socket.inet_pton(family, end[0])) for i, end in enumerate((source, destination))]
    ports = [attribute(2 + i, struct.pack("!H", end[1])) for i, end in enumerate((source, destination))]
    return nested(kind, nested(1, *ends), nested(2, attribute(1, bytes([protocol])), *ports))


def _message(client: str, to: str, backend: str, protocol: int = UDP, more: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    original = _tuple(1, (client, 4000), (to, 53), protocol)
    reply = _tuple(2, (backend, 5353), (client, 4000), protocol)
    status = attribute(3, struct.pack("!I", 0x18E))
    return struct.pack("!BBH", family, 0, 0) + original + reply + status + attribute(12, b"\1\2\3\4") + more


class FakeSocket:
    """Gives the same answers to every request; records them."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.refusals: list[Exception] = []
        self.sent: list[tuple[int, int, bytes]] = []

    def request(self, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
        self.sent.append((kind, flags, payload))
        for refusal in self.refusals:
            raise refusal
        return iter(self.answers)


@pytest.fixture(name="kernel")
def _kernel(monkeypatch: pytest.MonkeyPatch) -> FakeSocket:
    fake = FakeSocket()
    monkeypatch.setattr(subject, "NetlinkSocket", {12: fake}.__getitem__)
    return fake


@pytest.mark.parametrize(
    ("client", "to", "backend", "family"),
    [("192.0.2.7", "10.96.0.1", "10.0.1.11", "ipv4"), ("2001:db8::7", "fd96::1", "fd00:1::11", "ipv6")],
)
def test_an_entry_is_where_it_was_sent_and_who_answers(
    kernel: FakeSocket, client: str, to: str, backend: str, family: str
) -> None:
    kernel.answers.append(_message(client, to, backend))
    (flow,) = subject.Conntrack().flows(["udp"])
    assert flow[:5] == ("udp", family, (to, 53), (backend, 5353), True)
    assert flow.translated


def test_an_entry_is_found_by_its_tuple_zone_and_id_and_never_without_a_tuple(kernel: FakeSocket) -> None:
    """A request to delete that names no tuple empties the whole table."""
    kernel.answers.append(_message("192.0.2.7", "10.96.0.1", "10.0.1.11", more=attribute(18, b"\0\7")))
    conntrack = subject.Conntrack()
    (flow,) = conntrack.flows(["udp"])
    assert conntrack.delete(flow)
    kind, _flags, payload = kernel.sent[-1]
    assert kind == 0x102
    original = _tuple(1, ("192.0.2.7", 4000), ("10.96.0.1", 53), UDP)
    assert payload == b"\2\0\0\0" + original + attribute(18, b"\0\7") + attribute(12, b"\1\2\3\4")


def test_other_protocols_are_left_out_where_the_kernel_does_not(kernel: FakeSocket) -> None:
    kernel.answers.append(_message("192.0.2.7", "10.96.0.1", "10.0.1.11", TCP))
    kernel.answers.append(struct.pack("!BBH", 2, 0, 0) + nested(1, nested(2, attribute(1, bytes([ICMP])))))
    assert subject.Conntrack().flows(["udp"]) == []


@pytest.mark.parametrize(("state", "live"), [(3, True), (5, True), (7, False), (8, False)])
def test_a_closed_tcp_connection_is_not_live(kernel: FakeSocket, state: int, live: bool) -> None:
    info = nested(4, nested(1, attribute(1, bytes([state]))))
    kernel.answers.append(_message("192.0.2.7", "10.96.0.1", "10.0.1.11", TCP, info))
    assert [flow.live for flow in subject.Conntrack().flows(["tcp"])] == [live]


def test_an_entry_that_is_told_twice_is_one(kernel: FakeSocket) -> None:
    kernel.answers += [_message("192.0.2.7", "10.96.0.1", "10.0.1.11")] * 2
    assert len(subject.Conntrack().flows(["udp"])) == 1


def test_an_entry_that_is_gone_already_is_no_error(kernel: FakeSocket) -> None:
    flow = Flow("udp", "ipv4", ("10.96.0.1", 53), ("10.0.1.11", 53), True, b"key")
    kernel.refusals = [NetlinkError(errno.ENOENT)]
    assert subject.Conntrack().delete(flow) is False
    kernel.refusals = [NetlinkError(errno.EBUSY)]
    with pytest.raises(subject.ConntrackError, match="connection tracking: deleting an entry over netlink: Device"):
        subject.Conntrack().delete(flow)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NetlinkError(errno.EPERM), "CAP_NET_ADMIN"),
        (NetlinkError(errno.EINVAL), "nf_conntrack_netlink"),
        (OSError(errno.EPROTONOSUPPORT, "Protocol not supported"), "nf_conntrack_netlink"),
    ],
)
def test_a_kernel_without_it_is_told_in_one_line(kernel: FakeSocket, error: Exception, words: str) -> None:
    kernel.refusals = [error]
    with pytest.raises(subject.ConntrackError, match=words) as raised:
        subject.Conntrack().probe()
    assert "\n" not in str(raised.value)
