# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of the node that a service takes from those who listen there, or from the run's own connection."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.listeners import (
    ListenerError,
    listeners,
    parse_sockets,
    process_names,
    ssh_server,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.own_ports import OwnPort
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service_facts import facts_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._node_checks.own_ports import (
    connection_problems,
    listener_warnings,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import Listener

OWN = "192.0.2.11"
NODE = {"name": "n", "addresses": [OWN, "10.0.0.1", "2001:db8::11"]}
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ANY = Listener("tcp", "0.0.0.0", 22, 7, "sshd")
FAR = [{"address": "10.0.0.99", "port": 8080}]


def _row(address: str, port: int, state: str, inode: int) -> str:
    packed = ipaddress.ip_address(address).packed
    words = "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
    return f"   0: {words}:{port:04X} {'0' * len(words)}:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 x\n"


def _taken(node: Mapping[str, Any], service: Mapping[str, Any]) -> list[OwnPort]:
    web = {"name": "web", "port": 22, "backends": FAR, **service}
    settings = parse_node({**NODE, **node})
    return [OwnPort.from_text(text) for text in facts_of(parse_services([web], settings), settings).own_ports]


def _warned(listener: Listener, node: Mapping[str, Any], **service: Any) -> list[str]:
    return listener_warnings(_taken(node, service), [listener], parse_node({**NODE, **node}))


def test_a_program_cannot_write_to_the_terminal_by_its_name() -> None:
    """Any user may listen, under any name."""
    (line,) = _warned(ANY._replace(process="x\x1b]0;y\x07\nz"), {}, node_port=22)
    assert "x\\u001b]0;y\\u0007\\nz (0.0.0.0:22) listens" in line
    assert line.isprintable()


def test_sockets_are_read_as_the_kernel_writes_them() -> None:
    rows = [
        HEAD,
        _row("127.0.0.1", 22, "0A", 5),
        _row("0.0.0.0", 443, "0A", 6),
        _row("10.0.0.1", 22, "01", 7),
        "broken",
    ]
    assert list(parse_sockets("tcp", rows)) == [
        Listener("tcp", "127.0.0.1", 22, 5),
        Listener("tcp", "0.0.0.0", 443, 6),
    ]
    rows = [
        HEAD,
        _row("::ffff:10.0.0.1", 53, "01", 4),
        _row("2001:db8::1", 53, "07", 5),
        _row("::ffff:10.0.0.1", 53, "07", 6),
    ]
    assert [(one.address, one.inode) for one in parse_sockets("udp", rows)] == [("2001:db8::1", 5), ("10.0.0.1", 6)]


@pytest.mark.parametrize("row", ["broken", "0: 0100007F:zz 0:0 0A 0 0 0 0 0 5"])
def test_what_is_no_table_of_sockets_is_an_error(row: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        list(parse_sockets("tcp", [HEAD, row]))


def test_a_socket_of_this_process_is_found_with_its_name() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        (found,) = [one for one in listeners(["tcp"]) if one.port == port and one.address == "127.0.0.1"]
        with open("/proc/self/comm", encoding="utf-8") as file:
            assert process_names({found.inode}) == {found.inode: file.read().strip()}


def test_what_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", _refuse)
    with pytest.raises(ListenerError, match=r"^/proc/net/tcp cannot be read: Permission denied$"):
        listeners(["tcp"])


def _refuse(*_arguments: object, **_options: object) -> None:
    raise PermissionError(13, os.strerror(13))


@pytest.mark.parametrize(
    ("listener", "node", "service"),
    [
        (ANY, {}, {"node_port": 22, "vip": "10.96.0.1"}),
        (ANY, {}, {"vip": OWN}),
        (ANY, {}, {"external_ips": [OWN]}),
        (ANY, {}, {"load_balancer_ips": [OWN]}),
        (ANY._replace(address=OWN), {}, {"vip": OWN}),
        (ANY._replace(address=OWN), {"node_port_addresses": ["192.0.2.0/24"]}, {"node_port": 22}),
        (ANY._replace(address="::"), {}, {"vip": OWN}),
        (ANY._replace(protocol="udp"), {}, {"vip": OWN, "protocol": "udp"}),
        (ANY._replace(address="127.0.0.1"), {"localhost_node_ports": True}, {"node_port": 22}),
    ],
)
def test_a_listener_that_is_cut_off_is_named(listener: Listener, node: dict[str, Any], service: dict[str, Any]) -> None:
    (warning,) = _warned(listener, node, **service)
    assert warning.startswith('service "web": ')
    at = f"[{listener.address}]" if ":" in listener.address else listener.address
    assert f" takes the port on which sshd ({at}:22) listens: " in warning


@pytest.mark.parametrize(
    ("listener", "node", "service"),
    [
        (ANY._replace(port=23), {}, {"node_port": 22}),
        (ANY._replace(protocol="udp"), {}, {"node_port": 22}),
        (ANY, {}, {"vip": "10.96.0.1"}),
        (ANY, {"node_port_addresses": ["198.51.100.0/24"]}, {"node_port": 22}),
        (ANY._replace(address="10.0.0.1"), {"node_port_addresses": ["192.0.2.0/24"]}, {"node_port": 22}),
        (ANY._replace(address="10.0.0.1"), {}, {"vip": OWN}),
        (ANY._replace(address="127.0.0.1"), {}, {"node_port": 22}),
        (ANY._replace(address="2001:db8::11"), {}, {"node_port": 22}),
        (ANY, {}, {"external_ips": [OWN], "backends": [{"address": OWN}]}),
    ],
)
def test_a_listener_that_is_still_reached_is_not(
    listener: Listener, node: dict[str, Any], service: dict[str, Any]
) -> None:
    assert _warned(listener, node, **service) == []


@pytest.mark.parametrize(
    ("server", "node", "service", "refused"),
    [
        ((OWN, 22), {}, {"node_port": 22}, True),
        ((OWN, 22), {}, {"vip": OWN}, True),
        (("2001:db8::11", 22), {}, {"external_ips": ["2001:db8::11"]}, True),
        ((OWN, 22), {"allow_management_port": True}, {"node_port": 22}, False),
        ((OWN, 22), {"node_port_addresses": ["10.0.0.0/8"]}, {"node_port": 22}, False),
        (("2001:db8::11", 22), {}, {"node_port": 22}, False),
        (("10.0.0.1", 22), {}, {"vip": OWN}, False),
        ((OWN, 2222), {}, {"node_port": 22}, False),
        ((OWN, 22), {}, {"node_port": 22, "protocol": "udp"}, False),
        (None, {}, {"node_port": 22}, False),
    ],
)
def test_the_port_of_the_connection_is_refused(
    server: tuple[str, int] | None, node: dict[str, Any], service: dict[str, Any], refused: bool
) -> None:
    found = list(connection_problems(_taken(node, service), server, parse_node({**NODE, **node})))
    assert len(found) == refused
    assert all("by which this run is connected" in one and "allow_management_port" in one for one in found)


def test_the_connection_is_that_of_an_ancestor(monkeypatch: pytest.MonkeyPatch) -> None:
    environments = {
        3: b"A=1\0",
        2: b"A=1\0SSH_CONNECTION=fe80::1%eth0 5 fe80::2%eth0 2222\0",
        1: b"SSH_CONNECTION=broken",
    }

    def read(path: Any) -> bytes:
        return environments[int(path.parent.name)]

    monkeypatch.setattr("os.getpid", lambda: 3)
    monkeypatch.setattr("pathlib.Path.read_bytes", read)
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, **_how: f"3 (a) b) S {int(path.parent.name) - 1} 0")
    assert ssh_server() == ("fe80::2", 2222)
    environments[2] = b"A=1\0"
    assert ssh_server() is None


def test_little_is_kept_of_services_that_take_no_port_of_the_node() -> None:
    assert _taken({}, {"vip": ["10.96.0.1", "fd96::1"]}) == []
    assert len(_taken({}, {"vip": ["10.96.0.1", "fd96::1"], "node_port": 30080})) == 2
