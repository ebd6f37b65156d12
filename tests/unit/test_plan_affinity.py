# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sets of remembered clients as a service grows: of its backends, and of their groups. Packets: integration tests."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.affinity import plan_sets
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired

NODE = parse_node({"name": "node1"})
LAYOUT = Layout("L4")
GROUP_AND_LIST = 300
"""So many backends are in groups of groups."""


def _compiled(count: int, **keys: Any) -> dict[str, Desired]:
    backends = [{"address": f"10.0.{at // 250}.{at % 250 + 1}"} for at in range(count)]
    backends += [{"address": f"fd00::{at + 1:x}"} for at in range(count)]
    web = {"name": "web", "vip": ["10.96.0.1", "fd96::1"], "port": 80, "session_affinity": "client_ip", **keys}
    return compile_services(parse_services([{**web, "backends": backends}], NODE), NODE)


def _own(compiled: dict[str, Desired]) -> set[str]:
    """The sets of backends, each of which its chain adds to first."""
    first: list[str] = [
        next(rule for rule in rules if "--add-set" in rule)
        for one in compiled.values()
        for (dummy, chain), rules in one.chains.items()
        if "-SEP-" in chain
    ]
    return {name for rule in first for name in LAYOUT.affinity_sets([rule])}


def _asked(compiled: dict[str, Desired], kind: str) -> set[str]:
    """The sets that rules in chains of this kind ask."""
    rules = [
        rule for one in compiled.values() for (dummy, chain), own in one.chains.items() for rule in own if kind in chain
    ]
    return LAYOUT.affinity_sets(rule for rule in rules if "--match-set" in rule)


def test_few_backends_have_a_set_each_and_no_groups() -> None:
    compiled = _compiled(16)
    assert {one.name for one in plan_sets(compiled, (), LAYOUT).create} == _own(compiled)


@pytest.mark.parametrize("count", [17, GROUP_AND_LIST])
def test_a_new_group_is_filled_from_its_backends_that_were_there(count: int) -> None:
    compiled = _compiled(count)
    own = _own(compiled)
    held = [one for one in plan_sets(_compiled(16), (), LAYOUT).create if one.name in own]
    found = plan_sets(compiled, held, LAYOUT)
    groups = {one.name for one in found.create} - own
    assert groups
    assert set(found.fill) <= groups
    family_of = {one.name: one.family for one in [*found.create, *held]}
    for name, members in found.fill.items():
        assert {family_of[member] for member in members} == {family_of[name]}
    alone = _asked(compiled, "-SVC-")
    assert {member for members in found.fill.values() for member in members} == {one.name for one in held} - alone


def test_without_clients_from_before_nothing_is_filled() -> None:
    assert not plan_sets(_compiled(17), (), LAYOUT).fill


def test_a_backend_adds_a_client_to_each_of_its_groups() -> None:
    compiled = _compiled(GROUP_AND_LIST)
    asked = _asked(compiled, "-")
    added = [
        LAYOUT.affinity_sets(rules)
        for one in compiled.values()
        for (dummy, chain), rules in one.chains.items()
        if "-SEP-" in chain
    ]
    assert {name for names in added for name in names} == asked
    assert {len(names) for names in added} <= {1, 2, 3}
    assert max(map(len, added)) > 2
