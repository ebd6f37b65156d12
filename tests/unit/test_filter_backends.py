# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter `backends`: its rules on plain dicts; tags, laziness and documentation through ansible-playbook."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

errors = pytest.importorskip("ansible.errors", reason="the filter runs on the controller, which needs ansible-core")

CHECKOUT = Path(__file__).resolve().parents[2]
PLUGIN = CHECKOUT / "plugins" / "filter" / "backends.py"


def load_plugin() -> Any:
    spec = importlib.util.spec_from_file_location("backends_filter", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load_plugin()
backends = plugin.FilterModule().filters()["backends"]

GROUPS = {"all": ["web1", "web2"], "web": ["web1", "web2"], "none": []}


def inventory(**hosts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"inventory_hostname": name, "groups": GROUPS, **values} for name, values in hosts.items()}


HOSTVARS = inventory(
    web1={"ansible_host": "10.0.0.11", "web_weight": 3, "web": {"port": 8080, "ips": ["10.0.0.11", "fd00::11"]}},
    web2={"ansible_host": "10.0.0.21", "maintenance": True, "web": {"port": "8081", "ips": [None, "FD00:0::21"]}},
)


def addresses(result: list[dict[str, Any]]) -> list[str]:
    return [backend["address"] for backend in result]


def test_defaults_are_the_hosts_address_and_name() -> None:
    assert backends(["web1", "web2"], HOSTVARS, 8080) == [
        {"address": "10.0.0.11", "port": 8080, "node": "web1"},
        {"address": "10.0.0.21", "port": 8080, "node": "web2"},
    ]


def test_an_inventory_name_that_is_an_address_serves_as_address() -> None:
    assert addresses(backends(["10.0.0.5"], inventory(**{"10.0.0.5": {}}))) == ["10.0.0.5"]


def test_order_is_that_of_the_hosts() -> None:
    assert addresses(backends(["web2", "web1"], HOSTVARS)) == ["10.0.0.21", "10.0.0.11"]


def test_a_group_by_name_is_its_hosts() -> None:
    assert backends("web", HOSTVARS, 80) == backends(["web1", "web2"], HOSTVARS, 80)


def test_no_hosts_no_backends() -> None:
    assert backends([], HOSTVARS, 80) == []
    assert backends("none", HOSTVARS, 80) == []


def test_expressions_are_evaluated_for_each_host() -> None:
    result = backends(
        "web",
        HOSTVARS,
        port="web.port",
        weight="web_weight || `1`",
        ready="!maintenance",
        node="join('-', ['vm', inventory_hostname])",
    )
    assert result == [
        {"address": "10.0.0.11", "port": 8080, "weight": 3, "ready": True, "node": "vm-web1"},
        {"address": "10.0.0.21", "port": 8081, "weight": 1, "ready": False, "node": "vm-web2"},
    ]


def test_constants_hold_for_every_host() -> None:
    result = backends("web", HOSTVARS, port="8080", weight=0, ready=False, node=None)
    assert result == [
        {"address": "10.0.0.11", "port": 8080, "weight": 0, "ready": False},
        {"address": "10.0.0.21", "port": 8080, "weight": 0, "ready": False},
    ]


def test_null_leaves_a_key_to_the_default_of_the_service() -> None:
    result = backends("web", HOSTVARS, weight="web_weight", ready="no_such", node="no_such")
    assert result == [{"address": "10.0.0.11", "weight": 3}, {"address": "10.0.0.21"}]


def test_a_list_of_addresses_makes_a_backend_of_each() -> None:
    result = backends("web", HOSTVARS, port=80, address="web.ips")
    assert addresses(result) == ["10.0.0.11", "fd00::11", "fd00::21"]
    assert [backend["node"] for backend in result] == ["web1", "web1", "web2"]


def test_the_same_address_twice_on_a_host_is_one_backend() -> None:
    assert addresses(backends(["web1"], HOSTVARS, address="[ansible_host, web.ips[0]]")) == ["10.0.0.11"]


WRONG = [
    ({"hosts": ["web3"]}, "host web3 is not in the inventory"),
    ({"hosts": "wbe"}, "'wbe' is not a group of the inventory"),
    ({"hosts": 5}, "the hosts are 5, give a list of host names or the name of a group"),
    ({"hostvars": "web1"}, "the first argument has to be the variable hostvars"),
    ({"address": "no_such"}, "host web1: address 'no_such' gives None, which is not an IP address"),
    (
        {"address": "web"},
        "host web1: address 'web' gives {'port': 8080, 'ips': ['10.0.0.11', 'fd00::11']}, which is not an IP address",
    ),
    (
        {"address": "inventory_hostname"},
        "host web1: address 'inventory_hostname' gives 'web1', which is not an IP address",
    ),
    ({"address": "[no_such]"}, "host web1: address '[no_such]' gives [None], which is not an IP address"),
    ({"address": "web_weight"}, "host web1: address 'web_weight' gives 3, which is not an IP address"),
    ({"address": "web.["}, "address: 'web.[' is no JMESPath expression: "),
    ({"address": ""}, "address: '' is no JMESPath expression: "),
    ({"address": "length(web_weight)"}, "host web1: address 'length(web_weight)' cannot be evaluated: "),
    ({"address": "nosuchfunction(@)"}, "host web1: address 'nosuchfunction(@)' cannot be evaluated: "),
    ({"port": 0}, "host web1: port is 0, which is not a number from 1 to 65535"),
    ({"port": 65536}, "host web1: port is 65536, which is not a number from 1 to 65535"),
    ({"port": True}, "host web1: port is True, which is not a number from 1 to 65535"),
    ({"port": "no_such"}, "host web1: port 'no_such' gives None, which is not a number from 1 to 65535"),
    ({"weight": -1}, "host web1: weight is -1, which is not a number from 0 to 65535"),
    ({"weight": 1.5}, "host web1: weight is 1.5, which is not a number from 0 to 65535"),
    (
        {"weight": "ansible_host"},
        "host web1: weight 'ansible_host' gives '10.0.0.11', which is not a number from 0 to 65535",
    ),
    ({"ready": "web_weight"}, "host web1: ready 'web_weight' gives 3, which is not true or false"),
    ({"ready": 2}, "host web1: ready is 2, which is not true or false"),
    ({"node": "web_weight"}, "host web1: node 'web_weight' gives 3, which is not the name of a host"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _arguments, message in WRONG])
def test_wrong_input_is_one_line_that_names_host_expression_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.AnsibleFilterError) as caught:
        backends(**{"hosts": ["web1"], "hostvars": HOSTVARS, **arguments})
    assert str(caught.value).startswith(f"backends: {message}")
    assert "\n" not in str(caught.value)


def test_missing_jmespath_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jmespath", None)
    without = load_plugin()
    assert without.backends(["web1"], HOSTVARS, 80) == backends(["web1"], HOSTVARS, 80)
    with pytest.raises(errors.AnsibleFilterError, match="needs the Python library jmespath on the controller"):
        without.backends(["web1"], HOSTVARS, 80, address="addresses[0]")


@pytest.mark.parametrize(
    ("word", "ready"), [("no", True), ("False", True), ("0", True), (False, True), ("yes", False), (True, False)]
)
def test_words_of_an_ini_inventory_are_taken_for_what_they_say(word: Any, ready: bool) -> None:
    hostvars = {"web1": {"inventory_hostname": "web1", "ansible_host": "10.0.0.11", "maintenance": word}}
    assert backends(["web1"], hostvars, 80, ready="!maintenance")[0]["ready"] is ready
    assert backends(["web1"], hostvars, 80, ready="maintenance")[0]["ready"] is not ready


INVENTORY = """
web:
  hosts:
    web1: {ansible_host: 10.0.0.11, octet: 11, hypervisor: vm-1}
    web2: {ansible_host: 10.0.0.21, octet: 21, maintenance: true, web_weight: 5}
  vars:
    web_port: 8080
    web_address: "10.0.1.{{ octet }}"
    web_address6: "fd00::{{ octet }}"
    maintenance: false
    never_read: "{{ no_such_variable }}"
proxies:
  hosts:
    proxy1:
  vars:
    # JMESPath's functions look at types, which are ansible-core's own for what comes from an inventory.
    of_functions: "{{ groups['web'] | layer4.service_proxy.backends(hostvars, weight='length(ansible_host)') }}"
    service_backends: "{{ groups['web'] | layer4.service_proxy.backends(hostvars, port=8080, weight='web_weight') }}"
"""


def playbook(tmp_path: Path, tasks: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    play = {"hosts": "proxies", "connection": "local", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    collections = tmp_path / "ansible_collections" / "layer4"
    collections.mkdir(parents=True)
    (collections / "service_proxy").symlink_to(CHECKOUT)
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml"]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.playbook
def test_in_a_playbook_with_templated_inventory(tmp_path: Path) -> None:
    expected = [
        {"address": "10.0.0.11", "port": 8080, "node": "web1"},
        {"address": "10.0.0.21", "port": 8080, "weight": 5, "node": "web2"},
    ]
    both = [
        {"address": "10.0.1.11", "port": 8080, "ready": True, "node": "vm-1"},
        {"address": "fd00::11", "port": 8080, "ready": True, "node": "vm-1"},
        {"address": "10.0.1.21", "port": 8080, "ready": False},
        {"address": "fd00::21", "port": 8080, "ready": False},
    ]
    call = (
        "groups['web'] | layer4.service_proxy.backends(hostvars, 'web_port', '[web_address, web_address6]', "
        "ready='!maintenance', node='hypervisor')"
    )
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.assert": {"that": ["service_backends == expected"]}, "vars": {"expected": expected}},
        {"ansible.builtin.assert": {"that": [f"({call}) == expected"]}, "vars": {"expected": both}},
        {"ansible.builtin.assert": {"that": ["of_functions | map(attribute='weight') == [9, 9]"]}},
        {
            "ansible.builtin.assert": {
                "that": [
                    "('web' | layer4.service_proxy.backends(hostvars, 8080, weight='web_weight')) == service_backends"
                ]
            }
        },
    ]
    result = playbook(tmp_path, tasks)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"ok={len(tasks)}" in result.stdout


@pytest.mark.playbook
def test_the_documented_examples_run(tmp_path: Path) -> None:
    examples = yaml.safe_load(plugin.EXAMPLES)
    result = playbook(tmp_path, examples)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"ok={len(examples)}" in result.stdout
    assert "address: fd00::21" in result.stdout


@pytest.mark.playbook
def test_an_error_in_a_playbook_is_the_filters_line(tmp_path: Path) -> None:
    task = {
        "ansible.builtin.debug": {
            "msg": "{{ groups['web'] | layer4.service_proxy.backends(hostvars, address='never') }}"
        }
    }
    result = playbook(tmp_path, [task])
    assert result.returncode == 2
    said = (
        (result.stdout + result.stderr).replace("\\'", "'").replace("''", "'")
    )  # as ansible-core before 2.19 quotes it
    assert "backends: host web1: address 'never' gives None, which is not an IP address" in said


def test_an_undefined_variable_behind_an_expression_is_named(tmp_path: Path) -> None:
    task = {
        "ansible.builtin.debug": {
            "msg": "{{ groups['web'] | layer4.service_proxy.backends(hostvars, address='never_read') }}"
        }
    }
    result = playbook(tmp_path, [task])
    assert result.returncode == 2
    assert "no_such_variable" in result.stdout + result.stderr
