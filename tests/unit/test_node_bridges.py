# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bridges of a node: which get which modes, what is given back, and the chain that forwards inside of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import bridge_modes, bridges
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.bridge_modes import HAIRPIN, PROMISCUOUS, Mode
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS, Bridge, Settings


def settings(**given: Any) -> Settings:
    return Settings({**DEFAULTS, **given})


@pytest.fixture(name="net")
def _net(tmp_path: Path) -> Path:
    """A sysfs with the bridges br0, of a backend and a network card, and br1, of a VLAN and two backends."""
    for bridge, ports in (("br0", ["eth0", "tap0"]), ("br1", ["eth1.7", "tap1", "tap2"])):
        (tmp_path / bridge / "bridge").mkdir(parents=True)
        (tmp_path / bridge / "flags").write_text("0x1003\n")
        for port in ports:
            (tmp_path / bridge / "brif" / port).mkdir(parents=True)
            (tmp_path / port / "brport").mkdir(parents=True)
            (tmp_path / port / "brport" / "hairpin_mode").write_text("0\n")
    (tmp_path / "eth0" / "device").mkdir()
    (tmp_path / "eth1.7" / "lower_eth1").mkdir()
    (tmp_path / "lo").mkdir()
    return tmp_path


def switch(net: Path, *modes: Mode) -> None:
    for kind, name in modes:
        path, text = ("flags", "0x1103") if kind == PROMISCUOUS else ("brport/hairpin_mode", "1")
        (net / name / path).write_text(f"{text}\n")


def links_of(net: Path) -> bridge_modes.Links:
    return bridge_modes.Links(str(net))


def test_ports_of_a_bridge_but_uplinks_get_the_hairpin_mode(net: Path) -> None:
    links = links_of(net)
    assert links.ports == {"br0": ["eth0", "tap0"], "br1": ["eth1.7", "tap1", "tap2"]}
    given = [
        Bridge("br0", "promiscuous", ()),
        Bridge("br1", "hairpin", ("eth1.7", "tap9")),
        Bridge("br2", "none", ("tap2",)),
    ]
    policy = bridges.policy_of(given)
    assert policy == {"promiscuous": ["br0"], "bridges": ["br0"], "ports": ["eth1.7", "tap9"]}
    assert bridge_modes.wanted_modes(policy, links) == [
        Mode(PROMISCUOUS, "br0"),
        Mode(HAIRPIN, "eth1.7"),
        Mode(HAIRPIN, "tap0"),
    ]
    gone = {"promiscuous": ["br7"], "bridges": ["br7"], "ports": ["lo"]}
    assert bridge_modes.wanted_modes(gone, links) == []


def test_modes_that_others_have_set_stay(net: Path) -> None:
    br0, tap0, tap1, tap2 = Mode(PROMISCUOUS, "br0"), *(Mode(HAIRPIN, f"tap{number}") for number in range(3))
    policy = bridges.policy_of([Bridge("br0", "promiscuous", ()), Bridge("br1", "hairpin", ())])
    switch(net, tap1)
    first = bridges.plan_modes(policy, {}, links_of(net))
    assert first == bridges.ModePlan(policy, [tap1], [], [br0, tap0, tap2])

    switch(net, br0, tap0, tap2)
    record = {**policy, "theirs": [list(mode) for mode in first.theirs]}
    assert bridges.plan_modes(policy, record, links_of(net)) == (policy, [tap1], [], [])

    none = bridges.policy_of([])
    assert bridges.plan_modes(none, record, links_of(net)) == (none, [], [br0, tap0, tap2], [])
    assert not bridges.is_hairpin_wanted(bridges.plan_modes(none, record, links_of(net)))
    assert bridges.is_hairpin_wanted(first)


def test_the_diff_of_modes_says_what_they_were() -> None:
    modes = [Mode(PROMISCUOUS, "br0"), Mode(HAIRPIN, "tap\x1b")]
    on, off = (bridges.mode_change("bridges", modes, value) for value in (True, False))
    assert (on.before, on.after) == (off.after, off.before)
    assert on.before == "promisc br0 off\nhairpin tap\\u001b off\n"
    assert on.after == "promisc br0 on\nhairpin tap\\u001b on\n"


@pytest.mark.parametrize(
    ("name", "is_safe"),
    [
        ("br-lan.7_x:1@a", True),
        ("x" * 15, True),
        ("x" * 16, False),
        ("", False),
        ("-br0", False),
        ("br+", False),
        ("bä", False),
    ],
)
def test_rules_can_name_a_bridge(name: str, is_safe: bool) -> None:
    assert bridges.is_safe_name(name) is is_safe


def test_bridges_that_are_not_there_are_refused_by_name(net: Path) -> None:
    links = links_of(net)

    def refusal(*given: dict[str, Any], **others: Any) -> str:
        try:
            bridges.refuse_wrong_bridges(settings(bridges=list(given), **others), links, "node1")
        except NodeError as error:
            return str(error)
        return ""

    assert refusal({"name": "br0", "ports": ["tap1"]}, {"name": "br1", "mode": "none", "ports": ["tap9"]}) == ""
    assert refusal({"name": "br7"}, state="absent") == ""
    assert refusal({"name": "br7", "ports": ["tap\n"]}, {"name": "br1", "ports": ["lo"]}) == (
        "service_proxy_bridges: node1 has no bridge or bridge port named br7, tap\\n, lo"
    )
    assert refusal({"name": "br+"}) == (
        'service_proxy_bridges: name is "br+": must be 1 to 15 letters, digits and _.:@-'
    )


def test_bridges_are_those_given_or_those_that_rules_can_name() -> None:
    local = ["br0", "br $(id)"]
    assert bridges.wanted_bridges(settings(), local) == [Bridge("br0", "hairpin", ())]
    assert bridges.unnamable(settings(), local) == ["br $(id)"]
    given = settings(bridges=[{"name": "br1", "mode": "promiscuous", "ports": ["tap1"]}])
    assert bridges.wanted_bridges(given, local) == [Bridge("br1", "promiscuous", ("tap1",))]
    assert bridges.unnamable(given, local) == []
    for absent in (settings(state="absent"), settings(state="absent", bridges=[{"name": "br1"}])):
        assert (bridges.wanted_bridges(absent, local), bridges.unnamable(absent, local)) == ([], [])


def test_a_bridge_forwards_inside_of_itself_and_copies_are_dropped_first() -> None:
    request = bridges.chain_request(
        settings(chain_prefix="X"), [Bridge("br0", "hairpin", ()), Bridge("br1", "promiscuous", ())]
    )
    assert request["rules"] == [
        '-i br1 -o br1 -m physdev ! --physdev-is-bridged -m conntrack --ctstate INVALID -m comment --comment "copies" -j DROP',
        '-i br0 -o br0 -m comment --comment "inside a bridge" -j ACCEPT',
        '-i br1 -o br1 -m comment --comment "inside a bridge" -j ACCEPT',
    ]
    assert (request["chain"], request["table"], request["state"]) == ("X-BRIDGE", "filter", "present")
    assert request["jumps"] == [{"from": "FORWARD", "match": None, "position": "first", "comment": "X bridges"}]
    assert bridges.chain_request(settings(), [])["state"] == "absent"


def test_a_damaged_record_of_modes_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(text: str) -> dict[str, Any]:
        monkeypatch.setattr(bridges, "read_text", lambda dummy: text)
        return bridges.read_record()

    assert read("") == {"theirs": []}
    recorded = '{"ports": ["tap1"], "theirs": [["hairpin", "tap2"]], "other": 1}'
    assert read(recorded) == {"ports": ["tap1"], "theirs": [Mode(HAIRPIN, "tap2")]}
    for text in (
        "{",
        "[]",
        '{"ports": 7}',
        '{"ports": [7]}',
        '{"theirs": [["hairpin"]]}',
        '{"theirs": [["hairpin", []]]}',
    ):
        with pytest.raises(NodeError, match=r"is damaged .*: remove it$"):
            read(text)
