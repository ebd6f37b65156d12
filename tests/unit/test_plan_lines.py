# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rules of a chain a diff shows, and which ports a bitmap must hold."""

from __future__ import annotations

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    Entry,
    HeldSet,
    InvalidSetError,
    SetHeader,
    Wanted,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset import plan_present
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan

CHAIN = ("nat", "L4-A")


def side(text: str) -> str:
    """The rules of one side, each a letter."""
    return "".join(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("-A "))


@pytest.mark.parametrize(
    ("old", "new", "gone", "come"),
    [
        ("abc", "abc", "", ""),
        ("abc", "abxc", "", "x"),
        ("abxc", "abc", "x", ""),
        ("a", "aa", "", "a"),
        ("aa", "a", "a", ""),
        ("aba", "aa", "b", ""),
        ("abcd", "xbcy", "ad", "xy"),
        ("abcd", "dbca", "abcd", "dbca"),
        ("abcde", "acbde", "bc", "cb"),
        ("abcdef", "xabcyf", "de", "xy"),
        ("", "ab", "", "ab"),
        ("ab", "", "ab", ""),
    ],
)
def test_rules_that_go_and_come(old: str, new: str, gone: str, come: str) -> None:
    result = plan(Desired({CHAIN: list(new)}), Observed({CHAIN: list(old)}))
    assert (side(result.before), side(result.after)) == (gone, come)
    assert result.changed == (old != new)


def test_long_chains_are_compared_as_sets_in_order() -> None:
    old = [f"r{number}" for number in range(3000)]
    new = ["first", *old[10:2000], "middle", *old[2000:], "last"]
    result = plan(Desired({CHAIN: new}), Observed({CHAIN: old}))
    assert [line for line in result.before.splitlines() if line.startswith("-A")] == [
        f"-A L4-A r{n}" for n in range(10)
    ]
    assert [line for line in result.after.splitlines() if line.startswith("-A")] == [
        f"-A L4-A {word}" for word in ("first", "middle", "last")
    ]


def bitmap(ports: tuple[int, int], *elements: str) -> HeldSet:
    return HeldSet(SetHeader("p", "bitmap:port", ports=ports), 0, (), {one: Entry(one) for one in elements})


@pytest.mark.parametrize(("ports", "outside"), [((1, 9), ""), ((2, 8), ""), ((3, 9), "2"), ((1, 7), "8")])
def test_ports_that_stay_must_be_in_the_range(ports: tuple[int, int], outside: str) -> None:
    wanted = Wanted(SetHeader("p", "bitmap:port", ports=ports), {}, False)
    if not outside:
        assert plan_present(wanted, bitmap((0, 100), "2", "8")).steps
        return
    with pytest.raises(InvalidSetError) as raised:
        plan_present(wanted, bitmap((0, 100), "2", "8"))
    shown = "-".join(map(str, ports))
    assert str(raised.value) == f'set "p": range is "{shown}": must include the port {outside}, which stays in the set'
