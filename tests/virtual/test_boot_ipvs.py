# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node restores at boot of the ipvs dataplane: sets, virtual services, addresses and timeouts, beside those of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from boot_host import keep, restore

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Jump
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import Timeouts
from lab.namespaces import Namespace

SETS = """\
create L4-VIP hash:ip,port family inet hashsize 64 maxelem 1048576 comment
create L4-6-EXTERNAL hash:ip,port family inet6 hashsize 64 maxelem 1048576 comment
create L4-BOUND hash:ip family inet hashsize 64 maxelem 1048576
create L4-AFF-ABCDEF hash:ip family inet hashsize 64 maxelem 65536 timeout 600
add L4-VIP 10.9.9.9,tcp:80 comment "web: a virtual IP"
add L4-VIP 10.9.9.9,udp:53 comment "dns: a virtual IP"
add L4-VIP 10.9.9.10,sctp:7 comment "seven: a virtual IP"
add L4-6-EXTERNAL fd00:9::9,tcp:80 comment "web: an external IP"
add L4-BOUND 10.9.9.9
"""
VIRTUAL_SERVICES = """\
-A -t 10.9.9.9:80 -s wrr
-a -t 10.9.9.9:80 -r 10.0.0.11:8080 -m -w 1
-a -t 10.9.9.9:80 -r 10.0.0.12:8080 -m -w 3
-A -u 10.9.9.9:53 -s rr -p 600
-a -u 10.9.9.9:53 -r 10.0.0.11:53 -m -w 1
-A --sctp-service 10.9.9.10:7 -s sh -b sh-port
-A -t [fd00:9::9]:80 -s wrr
-a -t [fd00:9::9]:80 -r [fd00::11]:8080 -m -w 1
"""
FOREIGN = "-A -t 10.9.9.9:443 -s rr\n-a -t 10.9.9.9:443 -r 10.0.0.50:443 -g -w 1\n-A -f 7 -s rr\n"


RULE = "-m set --match-set L4-VIP dst,dst -j RETURN"
STATE = BootState(
    rules={"ipv4": Desired({("mangle", "L4-SOURCES"): [RULE]}, [Jump("mangle", "PREROUTING", "-j L4-SOURCES")])},
    sets=SETS,
    ipvs=VIRTUAL_SERVICES.splitlines(),
    addresses=["10.9.9.9", "fd00:9::9"],
)


class Boot:
    """A node that holds virtual services of someone else, and what is kept of ours."""

    def __init__(self, node: Namespace, directory: Path) -> None:
        self.node, self.directory, self._number = node, directory, 0
        node.run("ipvsadm", "--restore", input=FOREIGN)
        self.keep(STATE)
        self.call()

    def keep(self, state: BootState) -> None:
        self._number += 1
        keep(self.directory, self._number, state)

    def call(self, action: str = "reload", expected: int = 0) -> subprocess.CompletedProcess[str]:
        done = restore(self.node, self.directory, action)
        assert done.returncode == expected, done.stderr
        return done

    def held(self) -> dict[str, list[str]]:
        """All of it, as the tools say it, in no order. A dump of IPVS counts the services of all namespaces to find where it goes
        on, and says some twice when another namespace goes meanwhile.
        """
        shown = ("-oneline", "address", "show", "scope", "global")
        addresses = [line for line in self.node.ip(*shown).splitlines() if "l4-ipvs0" in line]
        return {
            "sets": sorted(
                line for line in self.node.run("ipset", "save").stdout.splitlines() if line.startswith("add L4-VIP")
            ),
            "virtual services": sorted(set(self.node.run("ipvsadm", "-Sn").stdout.splitlines())),
            "rules": [
                line for line in self.node.run("iptables-save", "-t", "mangle").stdout.splitlines() if "L4-" in line
            ],
            "addresses": sorted(" ".join(line.split("\\")[0].split()[1:]) for line in addresses),
        }

    def wipe(self, *, foreign: bool) -> None:
        self.node.run("iptables", "-t", "mangle", "-F")
        self.node.run("iptables", "-t", "mangle", "-X")
        self.node.run("ipset", "destroy")
        self.node.run("ipvsadm", "-C")
        self.node.ip("link", "delete", "l4-ipvs0")
        if foreign:
            self.node.run("ipvsadm", "--restore", input=FOREIGN)


@pytest.fixture
def boot(node: Namespace, tmp_path: Path) -> Boot:
    return Boot(node, tmp_path / "kept")


def test_all_comes_back_beside_what_is_not_ours(boot: Boot) -> None:
    before = boot.held()
    assert before["virtual services"] == sorted((VIRTUAL_SERVICES + FOREIGN).splitlines())
    boot.wipe(foreign=True)
    for _again in range(2):
        boot.call()
        assert boot.held() == before


def test_what_has_changed_is_set_right(boot: Boot) -> None:
    before = boot.held()
    boot.node.run("ipvsadm", "-e", "-t", "10.9.9.9:80", "-r", "10.0.0.11:8080", "-m", "-w", "9")
    boot.node.run("ipvsadm", "-E", "-t", "10.9.9.9:80", "-s", "lc")
    boot.node.ip("link", "set", "l4-ipvs0", "down")
    boot.call()
    assert boot.held() == before
    assert "UP" in boot.node.ip("-oneline", "link", "show", "l4-ipvs0")


def test_timeouts_come_back_where_they_are_given(boot: Boot) -> None:
    boot.keep(STATE._replace(ipvs_timeouts=Timeouts(77, 0, 88)))
    boot.node.run("ipvsadm", "--set", "1000", "500", "1000")
    boot.call()
    assert boot.node.run("ipvsadm", "-l", "--timeout").stdout.split(":")[1].split() == ["77", "500", "88"]


@pytest.mark.parametrize("name", ["ipset", "iptables", "ipvsadm", "addresses"])
def test_a_broken_file_keeps_no_other_from_coming_back(boot: Boot, name: str) -> None:
    before = boot.held()
    boot.directory.joinpath("current", f"services.{name}").write_text("")
    boot.wipe(foreign=True)
    assert f"services.{name}" in boot.call(expected=1).stderr
    held = boot.held()
    if name != "ipset":
        assert held["sets"] == before["sets"]
    for kind, facility in (("virtual services", "ipvsadm"), ("addresses", "addresses")):
        assert (held[kind] == before[kind]) == (name != facility)


def test_what_someone_else_flushed_is_seen_and_brought_back(boot: Boot) -> None:
    before = boot.held()
    assert boot.call("watch").stderr == ""
    for flush in (("ipvsadm", "-C"), ("iptables", "-t", "mangle", "-F"), ("ip", "link", "delete", "l4-ipvs0")):
        boot.node.run(*flush)
        if flush[0] == "ipvsadm":
            boot.node.run("ipvsadm", "--restore", input=FOREIGN)
        assert "did not stand any more" in boot.call("watch").stderr
        assert boot.held() == before
    assert boot.call("watch").stderr == ""
