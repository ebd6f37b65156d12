# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files, units and packages of a node: what is compared, in which order it is changed, and what the diff says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import (
    boot_units,
    files,
    managers,
    tools,
    units,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.files import File, Held, Link, plan_files
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Settings
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.units import Unit, plan_units, quoted_word

TARGET = "multi-user.target"
KNOWN = {"a.service": TARGET, "b.timer": None}
UNIT_A = Unit("a.service", "[Service]\n", TARGET, started=True)
UNIT_B = Unit("b.timer", "[Timer]\n", None, started=False)


def settings(**given: Any) -> Settings:
    return Settings({**DEFAULTS, **given})


class Disk:
    """What is at paths, and in which order they were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: dict[str, Held] | None = None) -> None:
        self.held = held or {}
        self.done: list[Any] = []
        monkeypatch.setattr(files, "read", self.held.get)
        monkeypatch.setattr(files, "write", self._write)

    def _write(self, path: str, entry: files.Wanted) -> None:
        self.done.append((path, entry))
        self.held.pop(path, None)
        if entry:
            self.held[path] = Held(entry, True)


class Systemd:
    """A systemd with these active units. fails: the verb that it refuses."""

    def __init__(self, done: list[Any], active: Sequence[str] = (), fails: str = "") -> None:
        self.done, self.active, self.fails = done, list(active), fails

    def find(self, tool: str) -> str | None:
        return f"/usr/bin/{tool}"

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        tool, verb, *names = argv
        assert (tool, stdin) == ("systemctl", "")
        if verb == self.fails:
            return 1, "", "it is\n\tmasked"
        if verb == "is-active":
            return 3, "".join(f"{'active' if name in self.active else 'inactive'}\n" for name in names), ""
        self.done.append((verb, *names))
        return 0, "", ""


# files


def test_only_what_differs_is_written_and_the_diff_has_its_mode_and_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "/same": Held(File("1\n"), True),
        "/mode": Held(File("2\n", 0o600), True),
        "/owner": Held(File("3\n"), False),
        "/link": Held(Link("/old"), True),
        "/extra": Held(File("4"), True),
    }
    disk = Disk(monkeypatch, held)
    wanted = {
        "/same": File("1\n"),
        "/mode": File("2\n"),
        "/owner": File("3\n"),
        "/link": Link("/new"),
        "/extra": None,
        "/none": None,
        "/new": File("", 0o755),
    }
    change = plan_files("files", wanted)
    assert change.before == (
        "/owner is not root's\n/mode (mode 0600)\n2\n/owner (mode 0644)\n3\n/link -> /old\n/extra (mode 0644)\n4\n"
    )
    assert change.after == "/mode (mode 0644)\n2\n/owner (mode 0644)\n3\n/link -> /new\n/new (mode 0755)\n"
    assert not disk.done
    change.apply()
    assert [path for path, dummy in disk.done] == ["/mode", "/owner", "/link", "/extra", "/new"]
    assert not plan_files("files", wanted).changed


def test_what_is_in_the_way_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert files.read_text(str(tmp_path / "none")) is None
    assert files.read_text(str(tmp_path / "bytes")) == "(not a text)"
    with pytest.raises(NodeError, match=r"/link is a link: remove it, it is in the way of a file$"):
        files.read_text(str(tmp_path / "link"))
    with pytest.raises(NodeError, match=r" is neither a file nor a link: remove it, it is in the way$"):
        files.read(str(tmp_path))
    with pytest.raises(NodeError, match=r"/bytes/x cannot be read: Not a directory$"):
        files.read(str(tmp_path / "bytes" / "x"))


def test_a_link_is_replaced_whatever_an_earlier_run_has_left(tmp_path: Path) -> None:
    path = tmp_path / "wants" / "a.service"
    for target in ("/old", "/new"):
        files.write(str(path), Link(target))
        assert files.read(str(path))[:1] == (Link(target),)  # type: ignore[index]
        path.with_name("a.service.new").symlink_to("/left")
    files.write(str(path), None)
    assert files.read(str(path)) is None


# units


@pytest.fixture(name="booted", autouse=True)
def _booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_RUNNING", str(tmp_path))


def test_new_units_are_there_before_they_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    change = plan_units("units", [UNIT_A, UNIT_B], KNOWN, Systemd(disk.done))
    assert change.before == ""
    assert change.after == (
        "/etc/systemd/system/a.service (mode 0644)\n[Service]\n"
        "/etc/systemd/system/multi-user.target.wants/a.service -> /etc/systemd/system/a.service\n"
        "/etc/systemd/system/b.timer (mode 0644)\n[Timer]\n"
        "a.service active\n"
    )
    change.apply()
    assert disk.done[3:] == [("daemon-reload",), ("start", "a.service")]
    assert not plan_units("units", [UNIT_A, UNIT_B], KNOWN, Systemd(disk.done, ["a.service", "b.timer"])).changed
    stopped = plan_units("units", [UNIT_A, UNIT_B], KNOWN, Systemd(disk.done, []))
    assert (stopped.before, stopped.after) == ("", "a.service active\n")


def test_units_are_stopped_before_they_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    plan_units("units", [UNIT_A, UNIT_B], KNOWN, Systemd([])).apply()
    disk.done.clear()
    change = plan_units("units", [UNIT_A], KNOWN, Systemd(disk.done, ["a.service", "b.timer"]))
    assert change.before == "/etc/systemd/system/b.timer (mode 0644)\n[Timer]\nb.timer active\n"
    assert change.after == ""
    change.apply()
    assert disk.done == [
        ("stop", "b.timer"),
        ("/etc/systemd/system/b.timer", None),
        ("daemon-reload",),
        ("reset-failed", "b.timer"),
    ]


def test_where_systemd_does_not_run_no_unit_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_RUNNING", "/nowhere/at/all")
    disk = Disk(monkeypatch)
    change = plan_units("units", [UNIT_A], KNOWN, Systemd(disk.done, fails="is-active"))
    assert not change.changed
    disk.held["/etc/systemd/system/a.service"] = Held(File("left"), True)
    plan_units("units", [UNIT_A], KNOWN, Systemd(disk.done, fails="is-active")).apply()
    assert disk.done == [("/etc/systemd/system/a.service", None)]


@pytest.mark.parametrize(
    ("verb", "told"), [("is-active", "systemctl is-active"), ("start", "systemctl start a.service")]
)
def test_what_systemd_refuses_is_told_in_one_line(verb: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with pytest.raises(NodeError) as refused:
        plan_units("units", [UNIT_A], KNOWN, Systemd(disk.done, fails=verb)).apply()
    assert str(refused.value) == f"{told}: it is masked"


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("/usr/bin/python3.11", "/usr/bin/python3.11"), ("a b", '"a b"'), ('%n$X"\\', '"%%n$$X\\"\\\\"'), ("", '""')],
)
def test_a_word_of_a_command_is_one_word_to_systemd(word: str, quoted: str) -> None:
    assert quoted_word(word) == quoted


def test_units_of_boot_are_those_that_are_asked_for() -> None:
    def names(**asked: bool) -> list[str]:
        wanted = {"restore": False, "reapply": False, "overlay": False, "checks": False, **asked}
        return [one.name.replace("layer4-service-proxy", "") for one in boot_units.wanted_units(**wanted)]

    assert names() == names(reapply=True, overlay=True) == []
    assert names(checks=True) == ["-health.service", "-announce.service", "-announce.path"]
    assert names(restore=True) == [".service"]
    assert names(restore=True, overlay=True) == [".service", "-overlay.service"]
    assert names(restore=True, reapply=True) == [".service", "-watch.service", "-watch.timer"]
    everything = boot_units.wanted_units(restore=True, reapply=True, overlay=True, checks=True)
    assert {one.name: one.wanted_by for one in everything} == boot_units.KNOWN
    assert [one.name for one in everything if not one.started] == [boot_units.ANNOUNCE, boot_units.WATCH]
    for reapply in (True, False):
        (restore,) = (
            one
            for one in boot_units.wanted_units(restore=True, reapply=reapply, overlay=False, checks=False)
            if one.name == boot_units.UNIT
        )
        assert ("ReloadPropagatedFrom=firewalld.service" in restore.text) is reapply


# network managers and packages


def test_network_managers_that_there_are_leave_devices_of_ours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, missing = tmp_path / "conf.d", tmp_path / "network"
    there.mkdir()
    texts = list(managers._UNMANAGED.values())
    monkeypatch.setattr(managers, "_UNMANAGED", {f"{missing}/05-%s.network": texts[0], f"{there}/%s.conf": texts[1]})
    monkeypatch.setattr(managers, "_NETWORKD", str(there))
    monkeypatch.setattr(managers, "_NETWORKD_SETTINGS", str(tmp_path / "networkd"))
    assert managers.manager_change(settings(dataplane="ipvs")).after == (
        f"{there}/layer4-service-proxy.conf (mode 0644)\n# Role layer4.service_proxy.node\n[keyfile]\n"
        "unmanaged-devices+=interface-name:l4-ipvs0\n"
    )
    assert not managers.manager_change(settings()).changed
    assert not managers.manager_change(settings(dataplane="ipvs", state="absent")).changed
    vxlan, routes = (managers.overlay_change(settings(overlay=mode)).after for mode in ("vxlan", "routes"))
    assert "unmanaged-devices+=interface-name:l4-vxlan0\n" in vxlan
    assert "ManageForeignRoutes=no\n" in routes
    assert "ManageForeignRoutes" not in vxlan
    assert "unmanaged" not in routes
    monkeypatch.setattr(managers, "_NETWORKD", str(missing))
    assert not managers.overlay_change(settings(overlay="routes")).changed
    assert not managers.overlay_change(settings(overlay="vxlan", state="absent")).changed


class Bare(Systemd):
    def find(self, dummy: str) -> str | None:
        return None


@pytest.mark.parametrize(
    ("manager", "packages"),
    [
        ("/usr/bin/apt-get", ["bird2", "conntrack", "iproute2", "ipset", "iptables", "ipvsadm"]),
        ("/usr/bin/zypper", ["bird", "conntrack-tools", "iproute2", "ipset", "iptables", "ipvsadm"]),
        ("/usr/bin/dnf", ["bird", "conntrack-tools", "ipset", "iproute", "iptables-nft", "ipvsadm"]),
    ],
)
def test_packages_are_named_as_the_host_names_them(
    manager: str, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.os.path, "exists", lambda path: path == manager)
    missing = tools.missing_tools(settings(dataplane="ipvs", announce="bgp"), ["node", "announce"], Bare([]))
    assert tools.packages_of(missing) == sorted(packages)
    assert tools.called_by_runs(missing) == ["ip", "ip6tables", "ipset", "iptables", "ipvsadm"]


def test_a_part_that_needs_no_tools_misses_none() -> None:
    ipvs = settings(dataplane="ipvs", announce="vrrp")
    assert tools.missing_tools(ipvs, ["proxy", "bridge"], Bare([])) == []
    assert tools.missing_tools(ipvs, ["announce"], Bare([])) == ["keepalived"]
    assert tools.missing_tools(settings(state="absent", announce="vrrp"), ["node", "announce"], Bare([])) == []
    assert tools.missing_tools(ipvs, ["node", "announce"], Systemd([])) == []
