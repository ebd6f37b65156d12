# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Namespaces of the lab are wired as they say, and removing one ends nothing outside of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from pyroute2 import NetlinkError, netns

from lab.namespaces import Namespace, link

PREFIX = f"l4n{os.getpid()}{os.environ.get('PYTEST_XDIST_WORKER', '')}"


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace(PREFIX) as made:
        yield made


def test_a_name_that_is_taken_is_refused_and_stays(space: Namespace) -> None:
    process = space.start("sleep", "60")
    with pytest.raises(FileExistsError):
        Namespace(PREFIX).create()
    assert process.poll() is None
    assert "LOOPBACK,UP" in space.ip("link", "show", "lo")


def test_delete_ends_what_runs_inside() -> None:
    space = Namespace(PREFIX).create()
    process = Namespace(PREFIX).start("sh", "-c", "echo inside; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    assert process.pid in space.processes()
    space.delete()
    assert not space.exists()
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()


def test_delete_spares_the_namespace_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name for this process's own namespace would end everything on this machine."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, _signal: killed.append(process))
    own = Namespace(f"{PREFIX}-own")
    netns.attach(str(own.path), os.getpid())
    try:
        with pytest.raises(RuntimeError, match="is the namespace of this process"):
            own.delete()
        assert own.exists()
    finally:
        netns.remove(str(own.path))
    assert killed == []


def test_addresses_of_both_families_can_be_used_at_once(space: Namespace) -> None:
    space.add_bridge("br0", addresses=["10.0.0.1/24", "fd00::1/64"])
    space.add_address("br0", "10.0.0.2/32", "fd00::2/128")
    shown = space.ip("-oneline", "address", "show", "dev", "br0")
    assert all(f" {address} " in shown for address in ("10.0.0.1/24", "fd00::1/64", "10.0.0.2/32", "fd00::2/128"))
    for family, address in ((socket.AF_INET, "10.0.0.2"), (socket.AF_INET6, "fd00::2")):
        with closing(space.socket(family)) as listener:
            listener.bind((address, 0))


def test_ports_and_routes_are_as_ip_says_them(space: Namespace) -> None:
    with Namespace(f"{PREFIX}-b") as other:
        link(other, "eth0", space, "port")
        space.add_bridge("br0", "port", addresses=["10.0.0.1/24"])
        assert "master br0" in space.ip("link", "show", "port")
        other.add_address("eth0", "10.0.0.2/24")
        other.add_route("default", "via", "10.0.0.1")
        other.add_route("10.1.0.0/16", "via", "10.9.9.9", "dev", "eth0", "onlink")
        other.add_route("10.2.0.0/16", "via", "10.0.0.1", "table", "100")
        routes = [line.strip() for line in other.ip("route", "show").splitlines()]
        assert routes[0] == "default via 10.0.0.1 dev eth0"
        assert "10.1.0.0/16 via 10.9.9.9 dev eth0 onlink" in routes
        assert other.ip("route", "show", "table", "100").strip() == "10.2.0.0/16 via 10.0.0.1 dev eth0"
        with pytest.raises(ValueError, match="metric: not known"):
            other.add_route("10.3.0.0/16", "via", "10.0.0.1", "metric", "5")
        with pytest.raises(NetlinkError, match="unreachable"):
            other.add_route("10.3.0.0/16", "via", "10.77.0.1")
