# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot files that are made of those of the last run and the services that differ: the same as of all services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import NODE, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot, boot_generations
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_edit import edited_state
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_files import parse_rules, render
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_parts import services_part
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.given import Given
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import COMMANDS, Desired
from ansible_collections.layer4.service_proxy.tests.unit.sampling import EXAMPLES

Raw = dict[str, Any]
HERE = parse_node({"name": "node1", "addresses": ["192.0.2.1"]})


def _whole(raw: Sequence[Raw], node: Node) -> BootState:
    dataplane = registry.load("iptables")
    return dataplane.render(dataplane.compile(parse_services(raw, node), node), node)


def _kept(files: dict[str, bytes]) -> BootState:
    """What is read back from files."""
    texts = {family: files.get(command, b"").decode() for family, command in COMMANDS.items()}
    return BootState(rules={family: Desired(parse_rules(text)) for family, text in texts.items() if text})


def _without_affinity(raw: Sequence[Raw]) -> list[Raw]:
    return [{**one, "session_affinity": "none"} for one in raw]


@settings(max_examples=EXAMPLES)
@given(services(), services(), NODE)
def test_edited_files_are_those_of_all_services(before: list[Raw], after: list[Raw], settings_: Raw) -> None:
    node, dataplane = parse_node(settings_), registry.load("iptables")
    before, after = _without_affinity(before), _without_affinity(after)
    changed = [one for one in after if one not in before]
    names = {one["name"] for one in changed} | {one["name"] for one in before} - {one["name"] for one in after}
    desired = dataplane.compile(parse_services(changed, node), node)
    edited = dataplane.edited(_kept(render(_whole(before, node))), desired, names, node)
    assert edited
    assert render(edited) == render(_whole(after, node))


def _service(number: int, **keys: Any) -> Raw:
    backends = [{"address": f"10.0.0.{last}"} for last in (1, 2)]
    return {"name": f"s{number}", "vip": f"10.96.0.{number}", "port": 80, "backends": backends, **keys}


SERVICES = [_service(number) for number in range(1, 9)]


def _given(raw: Sequence[Raw], **settings_: Any) -> Given:
    return Given({**DEFAULTS, "name": "node1", "dataplane": "iptables", **settings_}, pack(raw))


def _observed(root: Path, last: Given, drained: Sequence[str] = ()) -> boot.Kept:
    """What a run finds behind one that was given this."""
    program = boot.observe(boot.Paths(root)).program
    part = services_part(last, list(drained), list(drained), HERE, program)
    files = {f"services.{facility}": content for facility, content in render(part.state()).items()}
    boot_generations.store(root, 1, files, {"services": part.digest}, {"services": dict(part.asked)})
    return boot.observe(boot.Paths(root))


@pytest.mark.parametrize(
    ("now", "drained"),
    [
        (SERVICES[1:], []),
        ([*SERVICES, _service(20)], []),
        ([_service(1, backends=[]), *SERVICES[1:]], []),
        ([_service(1, backends=[{"address": "10.0.0.9", "weight": 3}]), *SERVICES[1:]], []),
        ([_service(20, backends=[{"address": "10.0.0.3"}]), *SERVICES], ["10.0.0.3"]),
    ],
)
def test_a_few_services_are_edited_in_the_files_of_the_last_run(
    tmp_path: Path, now: list[Raw], drained: list[str]
) -> None:
    last = _given(SERVICES)
    edited = edited_state(_observed(tmp_path, last), last, _given(now), drained, HERE)
    whole = services_part(_given(now), drained, drained, HERE, b"").state()
    assert edited
    assert render(edited) == render(whole)


def test_files_of_anything_else_are_not_edited(tmp_path: Path) -> None:
    last, now = _given(SERVICES), _given(SERVICES[1:])
    kept = _observed(tmp_path, last)
    assert edited_state(kept, last, now, [], HERE)
    assert edited_state(kept, None, now, [], HERE) is None
    assert edited_state(kept, _given(SERVICES[2:]), now, [], HERE) is None
    assert edited_state(kept, last, _given(SERVICES[4:]), [], HERE) is None
    assert edited_state(kept, last, now, [], HERE._replace(masquerade_all=True)) is None
    assert edited_state(kept._replace(program=b"newer"), last, now, [], HERE) is None
    assert edited_state(kept, last, _given([_service(20, session_affinity="client_ip"), *SERVICES]), [], HERE) is None
    path = tmp_path / "generations" / "1" / "services.iptables"
    path.write_bytes(path.read_bytes().replace(b"10.0.0.1", b"10.0.0.7"))
    assert edited_state(kept, last, now, [], HERE) is None


def test_services_that_were_drained_then_are_compiled_again_when_they_are_not(tmp_path: Path) -> None:
    last = _given(SERVICES)
    kept = _observed(tmp_path, last, ["10.0.0.1"])
    assert edited_state(kept, last, last, [], HERE) is None
    many = _given([*SERVICES, *(_service(number, backends=[]) for number in range(30, 70))])
    edited = edited_state(_observed(tmp_path, many, ["10.0.0.1"]), many, many, [], HERE)
    assert edited
    assert render(edited) == render(services_part(many, [], [], HERE, b"").state())


def test_sets_of_clients_are_not_edited(tmp_path: Path) -> None:
    last = _given([_service(20, session_affinity="client_ip"), *SERVICES])
    assert edited_state(_observed(tmp_path, last), last, _given(SERVICES), [], HERE) is None
