# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An error in the inventory is reported by `site.yml` before any role has touched the node."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from nat_host import generation
from worlds import World, differences

from playbooks import SITE, Controller

GOOD: dict[Any, Any] = {"name": "web", "vip": "10.100.100.100", "port": 80, "backends": [{"address": "10.0.0.11"}]}


class Bare(World):
    """A node and nothing around it."""

    def build(self) -> None:
        self.variables: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"service_proxy_services": [{**GOOD, "port": 70000}]}, ['service "web": port is 70000', "1 to 65535"]),
        (
            {"service_proxy_services": [GOOD, {**GOOD, "name": "two"}]},
            ['service "two"', 'service "web"', "taken already"],
        ),
        ({"service_proxy_services": [GOOD], "service_proxy_masquerade_mark": "x"}, ["masquerade_mark", "hexadecimal"]),
        (
            {"service_proxy_services": [{**GOOD, "vip": date(2026, 1, 2)}]},
            ['service "web": vip is "2026-01-02"', "address"],
        ),
        (
            {"service_proxy_services": [{**GOOD, 8080: "x"}]},
            ['service "web": 8080 is not a known key', "allowed are name"],
        ),
        ({"service_proxy_services": [GOOD], "service_proxy_conntrack_max": -1}, ["conntrack_max is -1", "from 0 to"]),
        (
            {
                "service_proxy_services": [GOOD],
                "service_proxy_dataplane": "nftables",
                "service_proxy_flow_offload": ["lo", "nowhere"],
            },
            ['service_proxy_flow_offload[1] is "nowhere": node1 has no such device: must be one of', "lo"],
        ),
        (
            {"service_proxy_services": [GOOD], "service_proxy_bgp_neighbors": "10.0.0.1"},
            ['service_proxy_bgp_neighbors is "10.0.0.1": must be a list, each item a dict'],
        ),
        ({"service_proxy_services": GOOD}, ["service_proxy_services is a dict: must be a list of dicts"]),
        (
            {"service_proxy_services": [GOOD], "service_proxy_drained": ["10.0.0.11", ""]},
            ['service_proxy_drained[1] is "": must be the address of a backend'],
        ),
    ],
)
def test_an_error_is_reported_before_anything_is_touched(
    variables: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = _refusal(variables, tmp_path)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "variables",
    [
        {"service_proxy_conntrack_max": "many"},
        {"service_proxy_bridges": "many"},
        {"service_proxy_exclusive": "many"},
        {"service_proxy_backend_cidrs": ["10.0.0.1/24"]},
        {"service_proxy_local_cdirs": ["10.0.0.0/24"]},
    ],
)
def test_so_is_an_error_in_the_settings_of_any_role(variables: dict[str, Any], tmp_path: Path) -> None:
    message = _refusal({"service_proxy_services": [GOOD], **variables}, tmp_path)
    assert next(iter(variables)) in message


@pytest.mark.parametrize("backend", ["", None, ["10.0.0.11"]])
@pytest.mark.parametrize("playbook", ["drain", "undrain"])
def test_a_backend_that_is_not_named_is_no_run_of_everything(playbook: str, backend: Any, tmp_path: Path) -> None:
    """As with -e service_proxy_backend=$UNSET."""
    variables = {"service_proxy_services": [GOOD], "service_proxy_backend": backend}
    message = _refusal(variables, tmp_path, SITE.with_name(f"{playbook}.yml"))
    assert message.startswith(f"service_proxy_backend is {json.dumps(backend)}: must be the address of a backend")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("playbook", "variables", "message"),
    [
        ("drain", {}, 'service_proxy_backend is "": must be the address of a backend, its address and port'),
        ("undrain", {}, 'service_proxy_backend is "": must be the address of a backend, its address and port'),
        (
            "drain",
            {"service_proxy_backend": "10.0.0.11", "service_proxy_drain_seconds": "soon"},
            'service_proxy_drain_seconds is "soon": must be an integer from 0 to 1000000',
        ),
        ("rollback", {}, 'service_proxy_generation is "": must be an integer from 1 to'),
        (
            "rollback",
            {"service_proxy_generation": "last"},
            'service_proxy_generation is "last": must be an integer from 1',
        ),
        ("rollback", {"service_proxy_generation": 0}, "service_proxy_generation is 0: must be an integer from 1"),
    ],
)
def test_what_a_playbook_is_about_is_refused_in_one_line(
    playbook: str, variables: dict[str, Any], message: str, tmp_path: Path
) -> None:
    told = _refusal({"service_proxy_services": [GOOD], **variables}, tmp_path, SITE.with_name(f"{playbook}.yml"))
    assert told.startswith(message)
    assert len(told.splitlines()) == 1


def test_another_prefix_is_refused_while_there_are_rules(tmp_path: Path) -> None:
    """Those with the old one would stay beside the new ones, and would still be there when all is removed."""
    with Bare() as world:
        found = world.snapshot()
        controller = Controller(tmp_path)
        controller.inventory({"node1": world.node}, {"service_proxy_services": [GOOD]})
        controller.run()
        before = world.snapshot()
        others: list[dict[str, Any]] = [{}, {"service_proxy_dataplane": "nftables"}, {"service_proxy_state": "absent"}]
        for how in others:
            refused = controller.run(expect_failure=True, service_proxy_chain_prefix="ZZ", **how)
            assert refused.message == (
                'service_proxy_chain_prefix is "ZZ", but the rules of node1 begin with L4: must be "L4" until they are removed '
                "(service_proxy_state=absent)"
            )
            assert differences(world.snapshot(), before) == []
        controller.run(service_proxy_dataplane="nftables")
        controller.run(service_proxy_dataplane="nftables", service_proxy_chain_prefix="ZZ")
        controller.run(service_proxy_chain_prefix="ZZ")
        controller.run(service_proxy_chain_prefix="ZZ", service_proxy_state="absent")
        assert differences(world.snapshot(), found) == []


def _refusal(variables: dict[str, Any], directory: Path, playbook: Path = SITE) -> str:
    """What a playbook says, having touched nothing."""
    with Bare() as world:
        before, number = world.snapshot(), generation(world.node)
        controller = Controller(directory)
        controller.inventory({"node1": world.node}, variables)
        run = controller.run(playbook, expect_failure=True)
        assert differences(world.snapshot(), before) == []
        assert generation(world.node) == number
        return run.message
