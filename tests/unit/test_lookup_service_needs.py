# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What services ask of a node, as the roles find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.requirements import find_needs

CHECKOUT = Path(__file__).resolve().parents[2]
WEB = {
    "name": "web",
    "vip": "10.96.0.1",
    "port": 80,
    "scheduler": "sh",
    "forward_method": None,
    "backends": [
        {"address": "10.0.0.2", "node": "node1"},
        {"address": "10.0.0.1", "node": "node1"},
        {"address": "10.0.0.3"},
    ],
}


def test_what_is_asked_for() -> None:
    assert find_needs([WEB, {"name": "dns"}], "node1") == {
        "ipv6": False,
        "schedulers": ["sh", "wrr"],
        "forward_methods": ["masquerade"],
        "backend_addresses": ["10.0.0.1", "10.0.0.2"],
    }
    assert find_needs([WEB], "")["backend_addresses"] == []


@pytest.mark.parametrize(
    "where",
    [
        {"vip": "fd96::1"},
        {"vip": ["10.96.0.2", "fd96::1"]},
        {"external_ips": ["fd96::1"]},
        {"load_balancer_ips": "fd96::1"},
        {"backends": [{"address": "fd00::1"}]},
    ],
)
def test_ipv6_is_seen_wherever_an_address_may_stand(where: dict[str, Any]) -> None:
    assert find_needs([WEB, {**WEB, **where}], "node1")["ipv6"]


def test_what_is_wrong_asks_for_nothing() -> None:
    wrong = [None, "web", {"vip": None, "backends": "none"}, {"backends": [1, {}]}]
    assert find_needs(wrong, "node1") == find_needs([{}], "node1")


def _looked_up(directory: Path, variables: dict[str, Any], options: str) -> Any:
    """What the lookup finds in the variable `mine`, by ansible-playbook."""
    lookup = f"{{{{ lookup('layer4.service_proxy.service_needs', 'mine'{options}) | to_json }}}}"
    copy = {"ansible.builtin.copy": {"content": lookup, "dest": str(directory / "found")}}
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [copy]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", "play.yml"]
    command += ["-e", "ansible_python_interpreter=" + sys.executable]
    collections = directory / "ansible_collections" / "layer4"
    collections.mkdir(parents=True, exist_ok=True)
    if not collections.joinpath("service_proxy").exists():
        collections.joinpath("service_proxy").symlink_to(CHECKOUT)
    environment = {**os.environ, "ANSIBLE_HOME": str(directory), "ANSIBLE_COLLECTIONS_PATH": str(directory)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    return json.loads((directory / "found").read_text()) if done.returncode == 0 else done.stdout


def test_services_are_found_through_variables_and_templates(tmp_path: Path) -> None:
    web = {**WEB, "scheduler": "{{ chosen }}"}
    variables = {"mine": "{{ others }}", "others": [web], "chosen": "rr"}
    found = _looked_up(tmp_path, variables, ", name='node1', node={'name': 'node1', 'addresses': []}, dataplane='ipvs'")
    assert (found["schedulers"], found["backend_addresses"]) == (["rr"], ["10.0.0.1", "10.0.0.2"])
    assert found["mistakes"] == []
    assert "no variable 'mine'" in _looked_up(tmp_path, {}, "")


def test_mistakes_are_found(tmp_path: Path) -> None:
    node = ", node={'name': 'node1', 'addresses': []}"
    (mistake,) = _looked_up(tmp_path, {"mine": [{**WEB, "scheduler": None, "port": 0}]}, node)["mistakes"]
    assert 'service "web": port is 0' in mistake
    assert "mistakes" not in _looked_up(tmp_path, {"mine": [WEB]}, "")
