# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module `service_proxy_node` by way of the playbooks: which hosts it is for, and what it takes its settings from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from boot_host import RULES_OF_OTHERS, SET_ODD_RULES, odd_texts
from repetition import repetition
from worlds import World, differences

from module_runner import COLLECTION
from playbooks import SITE, Controller

MODULE = "service_proxy_node"
PLAYBOOKS = COLLECTION / "playbooks"
CIDR = "10.0.0.0/24"
SERVICE = {
    "name": "web",
    "vip": "10.9.9.9",
    "port": 80,
    "node_port": 30080,
    "backends": [{"address": "10.0.0.11", "port": 8080, "node": "node1"}, {"address": "10.0.0.21", "port": 8080}],
}
HOSTILE = "b`>PWNED`$x\"'"


class Bridged(World):
    """A node with a bridge whose name is a shell's command."""

    def build(self) -> None:
        self.bridge("br0", "10.0.0.1", {"b1": "10.0.0.11"})
        self.node.run("mkdir", "-p", "/etc/udev/rules.d")
        self.node.ip("link", "add", HOSTILE, "type", "bridge")
        self.node.ip("link", "set", HOSTILE, "up")
        self.node.ip("address", "add", "10.0.0.2/24", "dev", HOSTILE)
        self.variables: dict[str, Any] = {"service_proxy_local_cidrs": [CIDR], "service_proxy_services": [SERVICE]}


@pytest.fixture(scope="module")
def world() -> Iterator[Bridged]:
    with Bridged() as made:
        yield made


@pytest.fixture
def controller(world: Bridged, tmp_path: Path) -> Iterator[Controller]:
    """The node is as it was found before and after a test."""
    found = world.snapshot()
    made = Controller(tmp_path)
    made.inventory({"node1": world.node}, world.variables)
    yield made
    made.inventory({"node1": world.node}, world.variables)
    made.run(service_proxy_state="absent")
    assert differences(world.snapshot(), found) == []


def private_names() -> set[str]:
    """The names of variables that the roles and playbooks make for themselves."""
    names: set[str] = set()
    for path in [*COLLECTION.glob("roles/*/tasks/*.yml"), *PLAYBOOKS.glob("*.yml")]:
        text = path.read_text()
        names |= set(re.findall(r"register: (\w+)", text))
        names |= set(re.findall(r"loop_var: (\w+)", text))
        for _indent, block in re.findall(r"(?m)^( *)vars:\n((?:\1 +\w+:.*\n)+)", text):
            names |= set(re.findall(r"(\w+):", block))
        assert "set_fact" not in text, path
    return names


def test_every_private_variable_has_a_prefix_that_nobody_else_has() -> None:
    assert private_names()
    assert {name for name in private_names() if not name.startswith("layer4_service_proxy__")} == set()


def test_variables_of_the_same_names_change_nothing(world: Bridged, controller: Controller) -> None:
    controller.run()
    wanted = world.snapshot()
    hostile = {name: {"missing_packages": ["rm"], "endpoints": "{{ undefined_one }}"} for name in private_names()}
    controller.inventory({"node1": world.node}, {**hostile, **world.variables})
    assert controller.run().changed == 0
    assert differences(world.snapshot(), wanted) == []


KEPT, PROGRAMS = "/var/lib/layer4-service-proxy", "/usr/local/sbin"


@pytest.mark.parametrize(
    ("where", "options", "allowed"),
    [
        (KEPT, "ro", "its file system is read-only"),
        (KEPT, "size=64k", "its file system has 65536 bytes left, of 1048576 needed"),
        (KEPT, "nr_inodes=1", "its file system can take no further file"),
        (PROGRAMS, "ro", "its file system is read-only"),
        ("/etc/systemd/system", "ro", "its file system is read-only"),
    ],
)
def test_a_disk_that_takes_no_boot_files_is_told_before_anything_is_touched(
    world: Bridged, controller: Controller, where: str, options: str, allowed: str
) -> None:
    found = world.snapshot()
    with mounted(world, where, options):
        refused = [controller.run(expect_failure=True, check=check) for check in (True, False)]
    assert [one.message for one in refused] == [f"{where} cannot be written: {allowed}"] * 2
    assert differences(world.snapshot(), found) == []


def test_a_full_disk_keeps_nothing_from_being_removed(world: Bridged, controller: Controller) -> None:
    with mounted(world, "/var/lib", "size=2m"):
        controller.run()
        world.node.run("sh", "-c", "head -c 3m /dev/zero > /var/lib/full || true")
        assert controller.run().changed == 0
        controller.run(service_proxy_state="absent")
        assert world.node.run("ls", "/var/lib").stdout == "full\n"


@contextmanager
def mounted(world: World, where: str, options: str) -> Iterator[None]:
    """A file system of its own in place of a directory of the node."""
    is_there = world.node.run("test", "-d", where, check=False).returncode == 0
    world.node.run("mkdir", "-p", where)
    world.node.run("mount", "-t", "tmpfs", "-o", options, "full", where)
    try:
        yield
    finally:
        world.node.run("umount", where)
        if not is_there:
            world.node.run("rmdir", where)


def test_a_node_without_a_directory_for_programs_of_its_own_gets_one(world: Bridged, controller: Controller) -> None:
    with mounted(world, "/usr/local", "mode=755"):
        controller.run()
        world.node.run(f"{PROGRAMS}/layer4-service-proxy", "status")
        assert controller.run().changed == 0
        controller.run(service_proxy_state="absent")


STRINGS: dict[str, tuple[str, str]] = {
    "service_proxy_localhost_node_ports": ("no", "ipv4/conf/all/route_localnet:0"),
    "service_proxy_ipv6_forwarding": ("false", "ipv6/conf/all/forwarding:0"),
    "service_proxy_bridge_netfilter": ("false", "bridge/bridge-nf-call-iptables:0"),
    "service_proxy_backend_cidrs": (
        "10.0.1.0/24",
        '-A L4-BACKEND -d 10.0.1.0/24 -m comment --comment "not elsewhere" -j RETURN',
    ),
}


def test_settings_that_are_strings_mean_what_they_say(world: Bridged, controller: Controller) -> None:
    given: dict[str, Any] = {name: value for name, (value, _evidence) in STRINGS.items()}
    controller.run(**given)
    held = world.snapshot()
    assert [evidence for _value, evidence in STRINGS.values() if evidence not in held] == []


def test_what_is_kept_for_boot_is_kept_unless_that_is_switched_off_by_a_string(
    world: Bridged, controller: Controller
) -> None:
    kept = "/var/lib/layer4-service-proxy/generations/1/"
    controller.run(service_proxy_save_rules="false")
    names = world.node.run("ls", kept).stdout.split()
    assert names == ["asked.json", "index.json"]
    controller.run()
    names = world.node.run("ls", kept.replace("/1/", "/2/")).stdout.split()
    assert {"services.iptables", "services.iptables.jumps", "bridge.iptables", "backend.iptables"} < set(names)


def test_what_was_given_and_is_damaged_is_not_taken_for_nothing(world: Bridged, controller: Controller) -> None:
    controller.run()
    path = "/var/lib/layer4-service-proxy/generations/1/asked.json"
    world.node.run("sh", "-c", f"echo '{{' > {path}")
    found = world.snapshot()
    run = controller.run(PLAYBOOKS / "drain.yml", expect_failure=True, service_proxy_backend="10.0.0.11")
    assert f"{path} is damaged: it is not JSON: run site.yml first" in run.message
    assert differences(world.snapshot(), found) == []
    assert controller.run().changed == 1
    assert controller.run().changed == 0


def test_comments_of_others_stay_to_the_byte_through_runs_a_boot_and_removal(
    world: Bridged, controller: Controller
) -> None:
    node = world.node
    odd = "".join(f"{text}\0" for text in odd_texts(100))
    found = node.run("iptables-save").stdout
    node.run("bash", "-c", SET_ODD_RULES, input=odd)
    theirs = node.run("sh", "-c", RULES_OF_OTHERS).stdout
    controller.run()
    assert controller.run().changed == 0
    assert node.run("sh", "-c", RULES_OF_OTHERS).stdout == theirs
    ours = node.run("iptables-save", "-t", "filter").stdout.count("L4-")
    node.run("iptables-restore", input=found)
    node.run("bash", "-c", SET_ODD_RULES, input=odd)
    node.run("/usr/local/sbin/layer4-service-proxy", "boot", "restore")
    assert node.run("sh", "-c", RULES_OF_OTHERS).stdout == theirs
    assert node.run("iptables-save", "-t", "filter").stdout.count("L4-") == ours
    assert controller.run().changed == 0
    controller.run(service_proxy_state="absent")
    assert node.run("sh", "-c", RULES_OF_OTHERS).stdout == theirs
    assert "PWNED" not in node.run("ls", "/").stdout
    node.run("iptables-restore", input=found)


def test_a_rollback_is_a_run_with_what_an_earlier_run_was_given(world: Bridged, controller: Controller) -> None:
    controller.run()
    wanted = world.snapshot()
    other = {**SERVICE, "vip": "10.9.9.8", "node_port": 30081}
    given = {
        "service_proxy_services": [other],
        "service_proxy_masquerade_all": True,
        "service_proxy_drained": ["10.0.0.21"],
    }
    controller.inventory({"node1": world.node}, {**world.variables, **given})
    controller.run()
    assert [line for line in world.snapshot() if "10.9.9.9" in line] == []
    rollback = PLAYBOOKS / "rollback.yml"
    check = controller.run(rollback, check=True, service_proxy_generation=1)
    run = controller.run(rollback, service_proxy_generation=1)
    assert check.changes == run.changes != []
    assert "the inventory asks for other services" in run.output
    left = [line for line in differences(world.snapshot(), wanted) if "/var/lib/layer4-service-proxy" not in line]
    assert left == []
    assert controller.run(rollback, service_proxy_generation=3).changed == 0
    listed = world.node.run("/usr/local/sbin/layer4-service-proxy", "generations").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["1", "2", "*"]
    refused = controller.run(rollback, expect_failure=True, service_proxy_generation=7)
    assert "there is no generation 7 on this node: kept are 1, 2, 3" in refused.message


@pytest.mark.parametrize("group", ["", "service_proxy"], ids=["missing", "empty"])
def test_without_nodes_playbooks_fail_with_one_line_and_touch_no_host(
    world: Bridged, controller: Controller, group: str
) -> None:
    found = world.snapshot()
    inventory = yaml.safe_load((controller.directory / "hosts.yml").read_text())
    renamed = {"databases": inventory["service_proxy"], **({group: {"hosts": {}}} if group else {})}
    (controller.directory / "hosts.yml").write_text(yaml.safe_dump(renamed))
    for playbook in ("site", "drain", "undrain", "rollback"):
        run = controller.run_anyhow(
            PLAYBOOKS / f"{playbook}.yml", service_proxy_backend="10.0.0.11", service_proxy_generation=1
        )
        assert run.returncode != 0
        assert "the inventory has no hosts in group service_proxy, which are the nodes" in run.stdout + run.stderr
    assert differences(world.snapshot(), found) == []
    run = controller.run_anyhow(SITE, service_proxy_group="databases", check=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_name_of_a_bridge_is_never_code(world: Bridged, controller: Controller) -> None:
    run = controller.run()
    assert "is left alone" in run.output
    written = world.node.run(
        "sh",
        "-c",
        "cat /etc/udev/rules.d/*layer4* /etc/systemd/system/*layer4* 2> /dev/null; cat /usr/local/sbin/*layer4* | tr -cd '[:print:]\n'",
    ).stdout
    assert "SYSTEMD_WANTS" in written
    assert "PWNED" not in written
    assert "br0" not in written


def test_the_modes_of_new_ports_are_set_by_the_script_at_boot(world: Bridged, controller: Controller) -> None:
    controller.run()
    world.node.ip("link", "add", "late0", "type", "veth", "peer", "name", "late1")
    world.node.ip("link", "set", "late0", "master", "br0")
    hairpin = "/sys/class/net/late0/brport/hairpin_mode"
    assert world.node.run("cat", hairpin).stdout == "0\n"
    done = world.node.run("/usr/bin/python3", "-I", "/usr/local/sbin/layer4-service-proxy-bridges")
    assert (done.stdout, done.stderr) == ("", "")
    assert world.node.run("cat", hairpin).stdout == "1\n"
    controller.run(service_proxy_state="absent")
    assert world.node.run("cat", hairpin).stdout == "0\n"
    world.node.ip("link", "del", "late0")


def test_the_loopback_is_opened_by_no_file_that_is_read_before_the_rules(
    world: Bridged, controller: Controller
) -> None:
    run = controller.run(service_proxy_localhost_node_ports=True)
    assert world.node.sysctl("net.ipv4.conf.all.route_localnet") == "1"
    kept = world.node.run("cat", "/etc/sysctl.d/zz-layer4-service-proxy.conf").stdout
    assert [line for line in kept.splitlines() if "route_localnet" in line] == [
        "# found net.ipv4.conf.all.route_localnet=0"
    ]
    (diff,) = [diff for task, _host, diff in run.changes if diff]
    assert diff["after"].index("L4-NODEPORTS") < diff["after"].index("route_localnet = 1")


def test_a_misspelt_variable_is_refused_with_the_nearest_name(world: Bridged, controller: Controller) -> None:
    found = world.snapshot()
    run = controller.run(expect_failure=True, service_proxy_localhost_nodeports=True)
    assert run.message == "service_proxy_localhost_nodeports is set: did you mean service_proxy_localhost_node_ports?"
    assert differences(world.snapshot(), found) == []


def test_the_port_of_the_play_itself_is_refused_before_anything_is_touched(
    world: Bridged, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.11 40000 10.0.0.1 30080")
    found = world.snapshot()
    run = controller.run(expect_failure=True)
    assert run.message.startswith(
        'service "web": node_port 30080/tcp is 10.0.0.1:30080, by which this run is connected'
    )
    assert differences(world.snapshot(), found) == []
    assert controller.run(service_proxy_allow_management_port=True).changed == 1


def test_the_tag_of_a_role_does_its_part_alone(world: Bridged, controller: Controller) -> None:
    done = controller.run_anyhow(SITE, False, "--tags", "backend")
    assert done.returncode == 0, done.stdout + done.stderr
    held = world.snapshot()
    assert any("L4-BACKEND" in line for line in held)
    assert not any("L4-SERVICES" in line or "L4-BRIDGE" in line for line in held)
    assert "ipv4/ip_forward:0" in held


def test_the_diff_begins_with_what_becomes_of_services(controller: Controller) -> None:
    (diff,) = [diff for _task, _host, diff in controller.run().changes if diff]
    assert diff["after"].startswith("# services\nweb: added, 10.9.9.9:80/tcp, 2 backends\n")
    one_less = {**SERVICE, "backends": SERVICE["backends"][:1]}  # type: ignore[index]
    check = controller.run(check=True, service_proxy_services=[one_less])
    (diff,) = [diff for _task, _host, diff in check.changes if diff]
    assert diff["after"].startswith("# services\nweb: - 10.0.0.21:8080, shares 50 -> 100 %\n# ")


def test_check_mode_on_a_host_without_tools_predicts_what_it_can(controller: Controller) -> None:
    with Bridged() as bare:
        bare.node.run(
            "sh", "-c", "rm -f /usr/sbin/iptables /usr/sbin/ip6tables /usr/sbin/ipset /sbin/iptables /sbin/ipset"
        )
        found = bare.node.run("find", "/etc", "/var/lib", "-xdev", "-newer", "/etc/hostname").stdout
        controller.inventory({"node1": bare.node}, bare.variables)
        run = controller.run(check=True)
        (diff,) = [diff for _task, _host, diff in run.changes if diff]
        assert "ipset\n" in diff["after"].split("# packages\n")[1].split("# ")[0]
        for expected in (
            "net.ipv4.ip_forward = 1",
            "-A L4-BRIDGE -i br0 -o br0",
            "-A L4-BACKEND -s 10.0.0.11/32",
            "L4-SVC-",
        ):
            assert expected in diff["after"]
        assert "cannot be read before" in run.output
        assert bare.node.run("find", "/etc", "/var/lib", "-xdev", "-newer", "/etc/hostname").stdout == found
        refused = controller.run(check=True, expect_failure=True, service_proxy_install_packages="no")
        assert "and service_proxy_install_packages is false" in refused.message


@pytest.mark.parametrize(
    "how", [repetition({"serial": 1}), {"strategy": "free"}, repetition({})], ids=["serial", "free", "linear"]
)
def test_drain_changes_one_backend_and_nothing_else_however_it_is_run(tmp_path: Path, how: dict[str, Any]) -> None:
    with Bridged() as first, Bridged() as second:
        controller = Controller(tmp_path)
        nodes = {"node1": first.node, "node2": second.node}
        controller.inventory(nodes, first.variables)
        controller.run()
        other = {"name": "later", "vip": "10.9.9.8", "port": 80, "backends": [{"address": "10.0.0.31"}]}
        pending = {"service_proxy_services": [{**SERVICE, "port": 81}, other], "service_proxy_masquerade_all": True}
        controller.inventory(nodes, {**first.variables, **pending})
        before = [world.snapshot() for world in (first, second)]
        for task in ("drain", "undrain"):
            include = {"name": "layer4.service_proxy.proxy", "tasks_from": task}
            playbook = controller.play([{"name": task, "ansible.builtin.include_role": include}], **how)
            run = controller.run(playbook, service_proxy_backend="10.0.0.21", service_proxy_drain_seconds=0)
            assert "the inventory asks for other services or settings" in run.output
            for world in (first, second):
                rules = "\n".join(world.snapshot())
                assert "10.9.9.8" not in rules
                assert "--dport 81" not in rules
                assert ("to-destination 10.0.0.21:8080" in rules) == (task == "undrain")
        unchanged = [world.snapshot() for world in (first, second)]
        assert [[one for one in side if "generation" not in one] for side in unchanged] == [
            [one for one in side if "generation" not in one] for side in before
        ]
        known = controller.run(
            controller.play(
                [{"name": "drain", "ansible.builtin.include_role": {**include, "tasks_from": "drain"}}], **how
            ),
            service_proxy_backend="10.0.0.31",
            service_proxy_drain_seconds=0,
        )
        assert known.stats["node2"]["failures"] == 0
