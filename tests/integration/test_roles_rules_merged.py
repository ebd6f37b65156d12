# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept for boot after a run of vip_service that changed a little: the same as if all rules were read, without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.state_file import DIRECTORY
from lab.namespaces import Namespace
from module_runner import COLLECTION, legacy_path, run_module_ok

SCRIPT = COLLECTION / "roles" / "node" / "files" / "rules.sh"
NODE = {"name": "node", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/24"]}


def _service(number: int, *, backends: int = 3, **options: Any) -> dict[str, Any]:
    addresses = [{"address": f"10.0.0.{at + 1}"} for at in range(backends)]
    addresses += [{"address": f"2001:db8:1::{at + 1:x}"} for at in range(backends)]
    vips = [f"10.96.{number}.1", f"2001:db8:96::{number:x}"]
    return {"name": f"service-{number}", "vip": vips, "port": 80, "backends": addresses, **options}


class Host:
    """A namespace with services; broken: a directory in which iptables-save fails."""

    def __init__(self, namespace: Namespace, legacy: str | None, directory: Path) -> None:
        self._namespace, self._legacy, self._directory = namespace, legacy, directory
        self.kept, self.whole = directory / "kept", directory / "whole"
        self.is_nft = legacy is None
        broken = directory / "broken"
        broken.mkdir()
        for tool in ("iptables-save", "ip6tables-save"):
            broken.joinpath(tool).write_text("#!/bin/sh\nexit 1\n")
            broken.joinpath(tool).chmod(0o755)
        self._broken = str(broken)

    def apply(self, services: list[dict[str, Any]]) -> str:
        """The state of the rules behind the run."""
        arguments = {"services": services, "node": NODE, "exclusive": True}
        return str(run_module_ok(self._namespace, "vip_service", arguments, path_prefix=self._legacy)["rules_state"])

    def save(self, state: str, directory: Path, *, blind: bool = False) -> set[str]:
        path = ":".join(filter(None, [self._broken if blind else None, self._legacy, os.environ["PATH"]]))
        argv = ["sh", str(SCRIPT), "save", "L4", str(directory), "", "0 0 0", state]
        return set(self._namespace.run(*argv, env={"PATH": path}).stdout.split()) - {"systemd"}

    def run(self, *argv: str) -> None:
        path = ":".join(filter(None, [self._legacy, os.environ["PATH"]]))
        self._namespace.run(*argv, env={"PATH": path})


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with Namespace(f"l4merge{os.getpid()}") as namespace:
        yield Host(namespace, legacy_path() if request.param == "legacy" else None, tmp_path)


def _texts(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.name != "state"}


def test_changes_are_merged_as_if_all_were_read(host: Host) -> None:
    wanted = {number: _service(number) for number in range(10, 60)}
    host.save(host.apply(list(wanted.values())), host.kept)
    changes: list[dict[int, dict[str, Any]]] = [
        {30: _service(30, backends=2)},
        {9: _service(9), 60: _service(60), 61: _service(61, session_affinity="client_ip")},
        {number: {} for number in (10, 33, 60)},
        {11: _service(11, backends=0), 12: _service(12, node_port=30012), 13: _service(13, protocol="sctp")},
        {11: _service(11), 12: {}},
        {number: {} for number in range(14, 33)},
    ]
    for change in changes:
        wanted.update(change)
        state = host.apply([service for service in wanted.values() if service])
        assert host.save(state, host.kept, blind=True) == {"kept", "changed"}
        host.save("", host.whole)
        assert _texts(host.kept) == _texts(host.whole), change
        assert host.save(state, host.kept, blind=True) == {"kept"}


@pytest.mark.parametrize("before", ["nothing", "chains of others", "rules of other roles"])
def test_the_first_services_are_kept_as_if_all_were_read(host: Host, before: str) -> None:
    for tool in ("iptables", "ip6tables"):
        if before == "chains of others":
            host.run(tool, "-t", "nat", "-N", "DOCKER")
            host.run(tool, "-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER")
            host.run(tool, "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
            host.run(tool, "-t", "nat", "-A", "DOCKER", "-i", "docker0", "-j", "RETURN")
        elif before == "rules of other roles":
            for chain in ("L4-BRIDGE", "L4-BACKEND", "L4-ALSO"):
                host.run(tool, "-N", chain)
            host.run(tool, "-A", "FORWARD", "-m", "comment", "--comment", "a -j L4-ODD", "-j", "L4-BRIDGE")
            host.run(tool, "-A", "L4-BRIDGE", "-i", "br0", "-j", "ACCEPT")
            host.run(tool, "-I", "FORWARD", "-j", "L4-BACKEND")
            host.run(tool, "-A", "L4-BACKEND", "-o", "br0", "-j", "L4-ALSO")
            host.run(tool, "-A", "L4-BACKEND", "-o", "br1", "-j", "ACCEPT")
            host.run(tool, "-A", "L4-ALSO", "-j", "ACCEPT")
    wanted = [_service(number, node_port=30000 + number) for number in range(10, 60)]
    state = host.apply([*wanted, _service(60, session_affinity="client_ip"), _service(61, backends=0)])
    host.save(state, host.kept, blind=host.is_nft)
    host.save("", host.whole)
    assert _texts(host.kept) == _texts(host.whole)


def test_what_is_kept_of_the_first_services_is_not_in_memory_too(host: Host) -> None:
    before = set(DIRECTORY.glob("*.changes"))
    state = host.apply([_service(1)])
    assert set(DIRECTORY.glob("*.changes")) - before
    host.save(state, host.kept)
    assert not set(DIRECTORY.glob("*.changes")) - before


def test_jumps_that_go_are_read(host: Host) -> None:
    host.save(host.apply([_service(1)]), host.kept)
    host.run("iptables", "-t", "nat", "-N", "L4-BACKEND")
    host.save(host.apply([_service(1), _service(2)]), host.kept)
    host.save(host.apply([]), host.kept)
    assert host.kept.joinpath("iptables.rules").read_text() == "*nat\n# the other chains\n:L4-BACKEND - [0:0]\nCOMMIT\n"


def test_changes_of_others_are_read(host: Host) -> None:
    wanted = [_service(number) for number in range(1, 5)]
    host.save(host.apply(wanted), host.kept)
    host.run("iptables", "-t", "nat", "-N", "L4-BACKEND")
    host.save(host.apply(wanted[:-1]), host.kept)
    assert ":L4-BACKEND" in host.kept.joinpath("iptables.rules").read_text()


def test_what_was_kept_is_read_again_when_somebody_edited_it(host: Host) -> None:
    wanted = [_service(number) for number in range(1, 5)]
    host.save(host.apply(wanted), host.kept)
    file = host.kept / "iptables.rules"
    file.write_text(file.read_text().replace("10.0.0.1", "10.0.0.9"))
    host.save(host.apply(wanted[:-1]), host.kept)
    assert "10.0.0.9" not in file.read_text()
