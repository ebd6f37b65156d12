# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters trace and render in playbooks, as docs/review-in-ci.md shows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.layer4.service_proxy.plugins.filter.render import render
from ansible_collections.layer4.service_proxy.plugins.filter.trace import trace
from ansible_collections.layer4.service_proxy.plugins.filter.validate import validate

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENT = CHECKOUT / "docs" / "review-in-ci.md"
ASSERTING, FROM_INVENTORY = (
    yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
)
INVENTORY: dict[str, Any] = {
    "service_proxy": {
        "hosts": {"node1": {"service_proxy_addresses": ["192.0.2.1"]}, "node2": {}},
        "vars": {
            "service_proxy_local_cidrs": ["10.0.0.0/16"],
            "service_proxy_services": [
                {
                    "name": "web",
                    "vip": "10.96.0.1",
                    "port": 80,
                    "backends": [{"address": "{{ address }}", "node": "node1"}],
                },
                {
                    "name": "dns",
                    "vip": ["fd96::1"],
                    "port": 53,
                    "protocol": "udp",
                    "backends": [{"address": "fd00::1"}],
                },
                {"name": "api", "node_port": 30080, "port": 80, "backends": [{"address": "10.0.0.11"}]},
            ],
            "address": "10.0.0.11",
        },
    }
}


def play(directory: Path, plays: Any, inventory: Any) -> subprocess.CompletedProcess[str]:
    (directory / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    collections = directory / "ansible_collections" / "layer4"
    collections.mkdir(parents=True, exist_ok=True)
    if not (collections / "service_proxy").exists():
        (collections / "service_proxy").symlink_to(CHECKOUT)
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(directory),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
        "ANSIBLE_REMOTE_TEMP": str(directory / "remote"),
    }
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        cwd=directory,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.playbook
def test_the_documented_playbook_holds_and_writes_the_rules(tmp_path: Path) -> None:
    done = play(tmp_path, ASSERTING, {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok=5" in done.stdout
    rules = (tmp_path / "node1.rules").read_text()
    variables = ASSERTING[0]["vars"]
    assert rules == render(variables["services"], node=variables["node"])
    assert rules.startswith("# iptables\n*filter\n")


@pytest.mark.playbook
def test_the_documented_playbook_fails_when_what_it_relies_on_is_broken(tmp_path: Path) -> None:
    broken = [{**ASSERTING[0], "vars": {**ASSERTING[0]["vars"]}}]
    broken[0]["vars"]["services"] = [{**one, "source_ranges": []} for one in broken[0]["vars"]["services"]]
    done = play(tmp_path, broken, {})
    assert done.returncode == 2
    assert "only the office reaches the administration" in done.stdout
    assert "accept, by these rules:" in done.stdout + done.stderr


@pytest.mark.playbook
def test_the_documented_play_over_nodes_asks_for_every_service(tmp_path: Path) -> None:
    done = play(tmp_path, FROM_INVENTORY, INVENTORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("(item=web)") == done.stdout.count("(item=dns)") == 2
    services = INVENTORY["service_proxy"]["vars"]["service_proxy_services"]
    services[0]["internal_traffic_policy"] = "local"
    done = play(tmp_path, FROM_INVENTORY, INVENTORY)
    assert done.returncode == 2
    assert "web on node2: drop" in done.stdout + done.stderr
    assert "web on node1" not in done.stdout + done.stderr


@pytest.mark.playbook
def test_wrong_services_are_the_modules_own_line(tmp_path: Path) -> None:
    line = 'service "web": port is 0: must be an integer from 1 to 65535'
    for call in ("trace(from='192.0.2.9', to='10.96.0.1', port=80, node=node)", "render(node=node)"):
        task = {"ansible.builtin.debug": {"msg": f"{{{{ services | layer4.service_proxy.{call} }}}}"}}
        variables = {"services": [{"name": "web", "vip": "10.96.0.1", "port": 0}], "node": {"name": "node1"}}
        done = play(tmp_path, [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [task]}], {})
        assert done.returncode == 2
        assert line.replace('"', '\\"') in done.stdout or line in done.stdout + done.stderr


@pytest.mark.parametrize("wanted", [None, "web", {"name": "web"}])
def test_services_are_a_list(wanted: Any) -> None:
    question: dict[str, Any] = {"from": "192.0.2.9", "to": "10.96.0.1", "port": 80}
    answers: list[Callable[..., Any]] = [render, partial(trace, **question)]
    for answer in answers:
        with pytest.raises(AnsibleFilterError, match=r"^services is .*: must be a list of dicts$"):
            answer(wanted, node={"name": "node1"})


def test_a_node_needs_no_settings_and_a_name_only_where_backends_say_on_which_they_run() -> None:
    web = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.11"}]}
    question: dict[str, Any] = {"from": "192.0.2.9", "to": "10.96.0.1", "port": 80}
    assert render([web]) == render([web], node={"name": "node1"})
    assert trace([web], **question)["verdict"] == "accept"
    assert validate([web]) == []
    local = {**web, "backends": [{"address": "10.0.0.11", "node": "node1"}]}
    asked: list[Callable[..., Any]] = [render, partial(trace, **question)]
    for answer in asked:
        with pytest.raises(AnsibleFilterError, match=r"^\w+: node has no name: must be given"):
            answer([local], node={"addresses": ["192.0.2.1"]})
    assert validate([local]) == []


def test_options_are_given_by_name() -> None:
    for answer in (render, trace, validate):
        with pytest.raises(AnsibleFilterError, match="options must be given by name"):
            answer([], {"name": "node1"})


def test_one_family_alone_is_for_its_restore_command() -> None:
    web = {
        "name": "web",
        "vip": ["10.96.0.1", "fd96::1"],
        "port": 80,
        "session_affinity": "client_ip",
        "backends": [{"address": "fd00::1"}],
    }
    node = {"name": "node1"}
    texts = {version: render([web], node=node, ip_version=version) for version in ("ipv4", "ipv6", "both")}
    assert texts["both"].startswith(f"# iptables\n{texts['ipv4']}# ip6tables\n{texts['ipv6']}# ipset\ncreate L4-AFF-")
    assert "#" not in texts["ipv4"] + texts["ipv6"]
    assert render([], node=node) == ""


def test_the_ipvs_dataplane_is_rendered_tool_by_tool() -> None:
    """As the diff of a first run, but for settings of the kernel."""
    service = {"name": "web", "vip": ["10.96.0.1", "fd96::1"], "port": 80, "scheduler": "rr"}
    service["backends"] = [{"address": "10.0.0.11"}, {"address": "fd00::11"}]
    text = render([service], node={"name": "node1"}, dataplane="ipvs")
    tools = [line for line in text.splitlines() if line.startswith("# ")]
    assert tools == ["# ipset", "# iptables", "# ip6tables", "# ipvsadm", "# ip -batch"]
    assert "-a -t [fd96::1]:80 -r [fd00::11]:80 -m -w 1\n" in text
    only = render([service], node={"name": "node1"}, dataplane="ipvs", ip_version="ipv6")
    assert "10.96.0.1" not in only
    assert "address add fd96::1/128 dev l4-ipvs0" in only
