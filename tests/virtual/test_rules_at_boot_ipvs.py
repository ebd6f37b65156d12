# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The script that keeps our services for boot, for what the ipvs dataplane puts into the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.namespaces import Namespace
from module_runner import COLLECTION

SCRIPT = COLLECTION / "roles" / "node" / "files" / "rules.sh"
SETS = """\
create L4-VIP hash:ip,port family inet hashsize 64 maxelem 1048576 comment
create L4-6-EXTERNAL hash:ip,port family inet6 hashsize 64 maxelem 1048576 comment
create L4-BOUND hash:ip family inet hashsize 64 maxelem 1048576
create L4-AFF-ABCDEF hash:ip family inet hashsize 64 maxelem 65536 timeout 600
create L4-MINE hash:ip family inet hashsize 64 maxelem 65536
add L4-VIP 10.9.9.9,tcp:80 comment "web: a virtual IP"
add L4-VIP 10.9.9.9,udp:53 comment "dns: a virtual IP"
add L4-VIP 10.9.9.10,sctp:7 comment "seven: a virtual IP"
add L4-6-EXTERNAL fd00:9::9,tcp:80 comment "web: an external IP"
add L4-BOUND 10.9.9.9
add L4-AFF-ABCDEF 192.0.2.1 timeout 600
add L4-MINE 192.0.2.1
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


class Boot:
    """A node that holds services of ours and of someone else, and the script's directory."""

    def __init__(self, node: Namespace, directory: Path) -> None:
        self.node, self.directory = node, directory
        node.run("ipset", "restore", input=SETS)
        node.run("ipvsadm", "--restore", input=VIRTUAL_SERVICES + FOREIGN)
        node.run("iptables", "-t", "mangle", "-N", "L4-SOURCES")
        node.run("iptables", "-t", "mangle", "-A", "PREROUTING", "-j", "L4-SOURCES")
        node.run(
            "iptables",
            "-t",
            "mangle",
            "-A",
            "L4-SOURCES",
            "-m",
            "set",
            "--match-set",
            "L4-VIP",
            "dst,dst",
            "-j",
            "RETURN",
        )
        node.ip("link", "add", "l4-ipvs0", "type", "dummy")
        node.ip("link", "set", "l4-ipvs0", "addrgenmode", "none", "up")
        node.ip("address", "add", "10.9.9.9/32", "dev", "l4-ipvs0")
        node.ip("address", "add", "fd00:9::9/128", "dev", "l4-ipvs0", "nodad", "noprefixroute", "preferred_lft", "0")

    def script(self, action: str, gone: str = "", timeouts: str = "0 0 0") -> set[str]:
        arguments = (action, "L4", str(self.directory), gone, timeouts)
        return set(self.node.run("sh", str(SCRIPT), *arguments).stdout.split()) - {"systemd"}

    def held(self) -> dict[str, list[str]]:
        """All of it, as the tools say it, in no order. A dump of IPVS counts the services of all namespaces to find where it goes
        on, and says some twice when another namespace goes meanwhile.
        """
        addresses = self.node.ip("-oneline", "address", "show", "dev", "l4-ipvs0", "scope", "global").splitlines()
        return {
            "sets": sorted(
                line for line in self.node.run("ipset", "save").stdout.splitlines() if line.startswith("add L4-VIP")
            ),
            "virtual services": sorted(set(self.node.run("ipvsadm", "-Sn").stdout.splitlines())),
            "rules": [
                line for line in self.node.run("iptables-save", "-t", "mangle").stdout.splitlines() if "L4-" in line
            ],
            "addresses": sorted(line.split("\\")[0].split(maxsplit=1)[1] for line in addresses),
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


def test_what_is_saved_once_is_saved_and_is_ours_only(boot: Boot) -> None:
    assert boot.script("save") == {"kept", "changed"}
    assert boot.script("save") == {"kept"}
    kept = "".join(path.read_text() for path in boot.directory.iterdir())
    assert "443" not in kept
    assert "-f 7" not in kept
    assert "L4-MINE" not in kept
    assert "192.0.2.1" not in kept
    assert "L4-AFF-ABCDEF" in kept


def test_all_comes_back_beside_what_is_not_ours(boot: Boot) -> None:
    before = boot.held()
    boot.script("save")
    boot.wipe(foreign=True)
    for _again in range(2):
        boot.script("restore")
        assert boot.held() == before


def test_what_has_changed_is_set_right(boot: Boot) -> None:
    before = boot.held()
    boot.script("save")
    boot.node.run("ipvsadm", "-e", "-t", "10.9.9.9:80", "-r", "10.0.0.11:8080", "-m", "-w", "9")
    boot.node.run("ipvsadm", "-E", "-t", "10.9.9.9:80", "-s", "lc")
    boot.node.ip("link", "set", "l4-ipvs0", "down")
    boot.script("restore")
    assert boot.held() == before
    assert "UP" in boot.node.ip("-oneline", "link", "show", "l4-ipvs0")


def test_timeouts_come_back_where_they_are_given(boot: Boot) -> None:
    boot.script("save", timeouts="0 0 0")
    assert not (boot.directory / "timeouts").exists()
    assert boot.script("save", timeouts="77 0 88") == {"kept", "changed"}
    boot.node.run("ipvsadm", "--set", "1000", "500", "1000")
    boot.script("restore")
    assert boot.node.run("ipvsadm", "-l", "--timeout").stdout.split(":")[1].split() == ["77", "500", "88"]


def test_when_services_go_nothing_of_them_is_kept(boot: Boot) -> None:
    boot.script("save")
    assert boot.script("compare", "SERVICES") == {"changed"}
    boot.wipe(foreign=True)
    assert boot.script("save") == {"changed"}
    assert not boot.directory.exists()


def test_what_someone_else_flushed_is_seen_and_brought_back(boot: Boot) -> None:
    before = boot.held()
    boot.script("save")
    assert boot.script("watch") == set()
    boot.node.run("ipvsadm", "-C")
    boot.node.run("ipvsadm", "--restore", input=FOREIGN)
    assert "restoring" in boot.script("watch")
    assert boot.held() == before
    boot.node.run("iptables", "-t", "mangle", "-F")
    assert "restoring" in boot.script("watch")
    assert boot.held() == before
