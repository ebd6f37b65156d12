# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Readers have three answers: there is, there is none, could not be read. The last is an error and never the second."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.conntrack_cleanup import (
    families_with_connections,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter import other_variant
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.other_variant import OtherFamily
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import conntrack, ipset, ipvs, nft, sysctl
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import iptables_variant as variant
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import (
    NoXtablesError,
    Xtables,
    XtablesError,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables_canonical import settle
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.link import LinkError, links, own_addresses
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import NetlinkError, NetlinkSocket
from ansible_collections.layer4.service_proxy.plugins.module_utils._node_checks.facts import observe

MISSING = (errno.EINVAL, errno.EOPNOTSUPP)
UNREADABLE = (errno.EPERM, errno.ENOBUFS, errno.EINTR, errno.ENOMEM)


class Refusing:
    """A netlink socket that answers every request with an error."""

    def __init__(self, code: int) -> None:
        self._code = code

    def request(self, *dummy: Any) -> Any:
        raise NetlinkError(self._code)

    execute = execute_block = dump = request

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def refuse_with(code: int) -> None:
        for module in (conntrack, ipset, ipvs, nft):
            monkeypatch.setattr(module, "NetlinkSocket", lambda dummy: Refusing(code))

    return refuse_with


class Tools:
    """Tools with one answer for all. missing: those that are not installed."""

    def __init__(self, code: int = 0, stdout: str = "", stderr: str = "", missing: Sequence[str] = ()) -> None:
        self._answer, self._missing = (code, stdout, stderr), missing

    def find(self, tool: str) -> str | None:
        return None if tool in self._missing else "/usr/sbin/" + tool

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        assert argv[0].startswith("/usr/sbin/"), stdin
        return self._answer


def _open_nft() -> None:
    with nft.Nft() as opened:
        opened.base_chains()


READERS: list[tuple[Callable[[], Any], type[Exception], type[Exception], tuple[int, ...]]] = [
    (ipset.Ipset, ipset.NoIpsetError, ipset.IpsetError, MISSING),
    (ipvs.Ipvs, ipvs.NoIpvsError, ipvs.IpvsError, (errno.ENOENT,)),
    (_open_nft, nft.NoNftError, nft.NftError, MISSING),
    (lambda: conntrack.Conntrack().flows(["udp"]), conntrack.NoConntrackError, conntrack.ConntrackError, MISSING),
]


@pytest.mark.parametrize(("read", "none", "unreadable", "missing"), READERS)
def test_a_kernel_without_is_told_from_one_that_does_not_answer(
    refuse: Callable[[int], None],
    read: Callable[[], Any],
    none: type[Exception],
    unreadable: type[Exception],
    missing: tuple[int, ...],
) -> None:
    for code in missing:
        refuse(code)
        with pytest.raises(none):
            read()
    for code in UNREADABLE:
        refuse(code)
        with pytest.raises(unreadable) as raised:
            read()
        assert not isinstance(raised.value, none)
        assert "\n" not in str(raised.value)


def test_connections_that_cannot_be_read_are_not_taken_for_none(refuse: Callable[[int], None]) -> None:
    refuse(errno.EOPNOTSUPP)
    assert families_with_connections(conntrack.Conntrack()) == set()
    refuse(errno.ENOBUFS)
    with pytest.raises(conntrack.ConntrackError):
        families_with_connections(conntrack.Conntrack())


class Datagrams:
    """A socket that receives these; an exception is raised."""

    def __init__(self, *datagrams: bytes | OSError) -> None:
        self._left = list(datagrams)

    def sendto(self, *dummy: Any) -> None:
        """What is asked does not matter."""

    def recv_into(self, buffer: memoryview) -> int:
        datagram = self._left.pop(0)
        if isinstance(datagram, OSError):
            raise datagram
        buffer[: len(datagram)] = datagram
        return len(datagram)


def _message(kind: int, sequence: int, body: bytes, flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def _socket(*datagrams: bytes | OSError) -> NetlinkSocket:
    netlink = NetlinkSocket(0)
    netlink.close()
    netlink._socket = Datagrams(*datagrams)  # type: ignore[assignment]
    return netlink


DONE = b"\0\0\0\0"


def test_a_dump_that_was_interrupted_is_made_again() -> None:
    netlink = _socket(
        _message(100, 1, b"old!", flags=0x12) + _message(3, 1, DONE, flags=0x12),
        _message(100, 2, b"new!") + _message(3, 2, DONE),
    )
    assert netlink.dump(1, b"") == [b"new!"]


def test_a_dump_that_is_always_interrupted_is_an_error() -> None:
    netlink = _socket(*(_message(100, n, b"old!", 0x12) + _message(3, n, DONE, 0x12) for n in range(1, 100)))
    with pytest.raises(NetlinkError) as raised:
        netlink.dump(1, b"")
    assert raised.value.code == errno.EINTR
    with pytest.raises(NetlinkError):
        list(_socket(_message(100, 1, b"old!", 0x12) + _message(3, 1, DONE, 0x12)).request(1, 0x300, b""))


def test_answers_that_were_lost_are_an_error() -> None:
    for ask in (lambda netlink: netlink.dump(1, b""), lambda netlink: list(netlink.request(1, 0x300, b""))):
        with pytest.raises(NetlinkError) as raised:
            ask(_socket(_message(100, 1, b"some"), OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))))
        assert raised.value.code == errno.ENOBUFS


@pytest.mark.parametrize("stdout", ["", "Usage: ip", "[{"])
def test_addresses_that_cannot_be_read_are_not_taken_for_none(stdout: str) -> None:
    with pytest.raises(LinkError, match="no JSON"):
        own_addresses(Tools(stdout=stdout))
    with pytest.raises(LinkError, match="Cannot open netlink socket: Permission denied"):
        links(Tools(1, stderr="Cannot open netlink socket:\nPermission denied\n"))
    with pytest.raises(LinkError, match="is not installed"):
        links(Tools(missing=["ip"]))
    assert links(Tools(stdout=json.dumps([{"ifname": "lo"}])))[0].name == "lo"


def test_a_setting_that_cannot_be_read_is_told_from_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysctl, "_ROOT", tmp_path)
    assert sysctl.read("net/none") is None
    (tmp_path / "odd").write_text("1 2\n")
    (tmp_path / "directory").mkdir()
    for name in ("odd", "directory"):
        with pytest.raises(sysctl.SysctlError, match=f"sysctl {name} cannot be read"):
            sysctl.read(name)


@pytest.mark.parametrize(
    ("stderr", "none"),
    [
        ("iptables-save v1.8.9 (legacy): Cannot initialize: Table does not exist (do you need to insmod?)\n", True),
        ("ip6tables v1.8.9 (legacy): can't initialize ip6tables table `nat': Address family not supported\n", True),
        ("iptables-save v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)\n", False),
        ("Killed\n", False),
        ("", False),
    ],
)
def test_tables_that_are_not_there_are_told_from_those_that_cannot_be_read(stderr: str, none: bool) -> None:
    tables = Xtables(Tools(1, stderr=stderr), "ipv4")
    for read in (lambda: tables.save("nat"), tables.save_all, lambda: tables.list_chain("nat", "WEB")):
        with pytest.raises(XtablesError) as raised:
            read()
        assert isinstance(raised.value, NoXtablesError) == none


TOOLS_OF_ANOTHER_VARIANT = {
    "read": Tools(stdout="*nat\n-A OUTPUT -j DROP\n"),
    "missing": Tools(missing=["iptables-legacy"]),
}


def _other(tools: Tools) -> OtherFamily:
    """What these tools read of iptables-legacy."""
    return other_variant._read(Xtables(tools, "ipv4", variant="legacy"))


def test_the_other_variant_that_cannot_be_read_is_not_taken_for_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    monkeypatch.setattr(variant, "_LEGACY_TABLES", {"ipv4": names})
    tables = Xtables(Tools(), "ipv4")
    assert variant.legacy_tables("ipv4") == []
    assert variant.other_variant(tables) is None
    names.write_text("nat\n")
    assert variant.legacy_tables("ipv4") == ["nat"]
    found = {family: _other(tools) for family, tools in TOOLS_OF_ANOTHER_VARIANT.items()}
    assert found["read"].chains == {("nat", "OUTPUT"): ["-j DROP"]}
    assert "is not installed" in found["missing"].unread
    with pytest.raises(XtablesError, match="Killed"):
        _other(Tools(1, stderr="Killed"))
    names.unlink()
    names.mkdir()
    with pytest.raises(XtablesError):
        variant.legacy_tables("ipv4")
    script = Xtables(Tools(1), "ipv4")
    script._multi = "/usr/sbin/iptables"  # no link to a program of which the name tells
    with pytest.raises(XtablesError):
        variant.is_legacy(script)


def test_a_set_that_cannot_be_read_is_not_taken_for_one_that_is_not_there() -> None:
    rules = {"WEB": ["-m set --match-set known src -j ACCEPT"]}
    with pytest.raises(XtablesError, match="Operation not permitted"):
        settle(
            Xtables(Tools(1, stderr="ipset v7.17: Kernel error received: Operation not permitted\n"), "ipv4"),
            "nat",
            rules,
        )


def test_checks_of_a_node_say_what_they_could_not_read() -> None:
    observed = observe(["10.96.0.10"], Tools(missing=["ip"]))
    assert [line.partition(" ")[0] for line in observed.unread] == ["ip"]
