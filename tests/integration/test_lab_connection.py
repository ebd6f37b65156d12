# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection `netns` under ansible-playbook: modules, facts, files, become and delegation inside namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.hosts import VIEWS_DIRECTORY, Host
from lab.namespaces import Namespace, link
from lab.playbook import collections_path

PREFIX = f"l4c{os.getpid()}{os.environ.get('PYTEST_XDIST_WORKER', '')}"
PROBE = f"{PREFIX}-probe"
PRIVATE = ["/etc", "/etc/sysctl.d", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local/bin", "/var/lib"]

CONNECTION = {"ansible_connection": "layer4.service_proxy.netns", "ansible_python_interpreter": "/usr/bin/python3"}
INVENTORY = {
    "all": {
        "vars": CONNECTION,
        "children": {
            "viewed": {
                "hosts": {
                    name: {
                        "ansible_netns_name": f"{PREFIX}-{name}",
                        "ansible_netns_view": str(VIEWS_DIRECTORY / f"{PREFIX}-{name}"),
                        "address": address,
                    }
                    for name, address in (("one", "10.8.0.1"), ("two", "10.8.0.2"))
                }
            },
            "plain": {
                "hosts": {f"{PREFIX}-plain": {}, "by-host": {"ansible_host": "{{ prefix }}-plain", "prefix": PREFIX}}
            },
        },
    }
}

PLAYBOOK = f"""
- hosts: all
  gather_subset: [network]
  tasks:
    - name: Modules see this namespace's interfaces, in netlink and in sysfs
      ansible.builtin.shell: ls /sys/class/net; echo --; ip -brief link | sed 's/[@ ].*//' | sort
      register: interfaces
      changed_when: false
      failed_when: interfaces.stdout.split('--') | map('trim') | unique | length != 1

    - name: Become works
      become: true
      become_method: su
      become_user: nobody
      become_flags: -s /bin/sh
      ansible.builtin.command: id -un
      register: user
      changed_when: false
      failed_when: user.stdout != 'nobody'

    - name: A script is copied and run
      ansible.builtin.script: script.sh
      register: script
      failed_when: script.stdout_lines != ['from the controller']

    - name: Standard input and the exit code arrive
      ansible.builtin.command:
        cmd: sh -c 'cat; exit 3'
        stdin: several words
      register: ended
      changed_when: false
      failed_when: ended.rc != 3 or ended.stdout != 'several words'

- hosts: viewed
  gather_subset: [network]
  tasks:
    - name: The host has its own name and address
      ansible.builtin.assert:
        that:
          - ansible_facts.hostname == inventory_hostname
          - ansible_facts.interfaces | sort == ['eth0', 'lo']
          - ansible_facts.all_ipv4_addresses == [address]

    - name: Files are written where the controller does not see them
      ansible.builtin.copy:
        content: "of {{{{ inventory_hostname }}}}"
        dest: /etc/{PROBE}
        mode: "0644"

    - name: Wherever that is
      ansible.builtin.command: touch {" ".join(f"{directory}/{PROBE}" for directory in PRIVATE)}
      changed_when: false

    - name: And come back to the controller
      ansible.builtin.fetch:
        src: /etc/{PROBE}
        dest: fetched/

    - name: A sysctl is set now and at boot
      ansible.posix.sysctl:
        name: net.ipv4.conf.all.log_martians
        value: "1"
        sysctl_file: /etc/sysctl.d/{PROBE}.conf

    - name: Modules that run in the background are found again
      ansible.builtin.command: sleep 0.1
      changed_when: false
      async: 20
      poll: 1

    - name: A task delegated to the other host runs there
      ansible.builtin.command: hostname
      delegate_to: two
      register: delegated
      changed_when: false
      failed_when: delegated.stdout != 'two'

    - name: Also to one whose namespace is its inventory name
      ansible.builtin.command: ip netns identify
      delegate_to: {PREFIX}-plain
      register: delegated
      changed_when: false
      failed_when: delegated.stdout != '{PREFIX}-plain'

    - name: And to one whose namespace is its ansible_host
      ansible.builtin.command: ip netns identify
      delegate_to: by-host
      register: delegated
      changed_when: false
      failed_when: delegated.stdout != '{PREFIX}-plain'
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Namespace]]:
    one, two, plain = Host(f"{PREFIX}-one", "one"), Host(f"{PREFIX}-two", "two"), Namespace(f"{PREFIX}-plain")
    with one, two, plain:
        link(one, "eth0", two, "eth0")
        one.add_address("eth0", "10.8.0.1/24")
        two.add_address("eth0", "10.8.0.2/24")
        yield {"one": one, "two": two, "plain": plain}


def ansible(directory: Path, command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one of ansible's commands on `INVENTORY`."""
    inventory = directory / "inventory.yml"
    inventory.write_text(yaml.safe_dump(INVENTORY))
    with collections_path() as path:
        return subprocess.run(
            [sys.executable, "-m", "ansible", command, "-i", str(inventory), *arguments],
            cwd=directory,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": path, "ANSIBLE_NOCOLOR": "1", **variables},
            check=False,
            capture_output=True,
            text=True,
        )


@pytest.mark.parametrize("pipelining", ["0", "1"])
def test_a_playbook_finds_hosts_like_any_others(hosts: dict[str, Namespace], tmp_path: Path, pipelining: str) -> None:
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "script.sh").write_text("#!/bin/sh\necho from the controller\n")
    done = ansible(tmp_path, "playbook", "play.yml", ANSIBLE_PIPELINING=pipelining)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("one", "two"):
        assert (tmp_path / "fetched" / name / "etc" / PROBE).read_text() == f"of {name}"
        assert hosts[name].sysctl("net.ipv4.conf.all.log_martians") == "1"
        assert hosts[name].run("cat", f"/etc/{PROBE}").stdout == f"of {name}"
        hosts[name].run("rm", f"/etc/{PROBE}")
    assert hosts["plain"].sysctl("net.ipv4.conf.all.log_martians") == "0"
    assert not [path for directory in PRIVATE for path in Path(directory).glob(f"{PROBE}*")]


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"ansible_netns_name": "nowhere"},
            "There is no network namespace 'nowhere' on the controller (no /run/netns/nowhere).",
        ),
        (
            {"ansible_netns_view": "/nowhere"},
            f"The view of network namespace '{PREFIX}-one' is not complete (no /nowhere/mnt).",
        ),
    ],
    ids=["no namespace", "no view"],
)
def test_what_is_not_there_is_one_clear_line(tmp_path: Path, variables: dict[str, Any], complaint: str) -> None:
    given = [word for pair in variables.items() for word in ("-e", "=".join(pair))]
    done = ansible(tmp_path, "adhoc", "one", "-m", "ansible.builtin.ping", *given)
    assert done.returncode == 4
    assert "UNREACHABLE" in done.stdout
    assert f'"msg": "Task failed: {complaint}"' in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_host_leaves_nothing() -> None:
    host = Host(f"{PREFIX}-brief")
    with suppress(RuntimeError), host:
        host.run("touch", f"/etc/{PROBE}")
        assert host.run("hostname").stdout.strip() == host.name
        raise RuntimeError
    assert not host.exists()
    assert not host.view.exists()
    assert not Path("/etc", PROBE).exists()
    assert host.name not in Path("/proc/self/mountinfo").read_text()
    host.delete()


def test_a_view_that_cannot_be_made_takes_the_namespace_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.hosts.FURNISH", "echo no room >&2; exit 1")
    host = Host(f"{PREFIX}-broken")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        host.create()
    assert raised.value.stderr == "no room\n"
    assert not host.exists()
    assert not host.view.exists()
