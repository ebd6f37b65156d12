# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import (
    Desired,
    Jump,
    Observed,
    target_of,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan

HOOK = ("nat", "PREROUTING")
JUMP = '-m comment --comment "say -j X" -j L4-A'


def _lines(text: str) -> list[str]:
    return text.splitlines()


def test_equal_states_need_nothing() -> None:
    chains = {("nat", "L4-A"): ["-j RETURN"]}
    result = plan(Desired(dict(chains), [Jump(*HOOK, JUMP)]), Observed(dict(chains), {HOOK: ["-j DOCKER", JUMP]}))
    assert not result.changed
    assert (result.restore, result.undo, result.before, result.after) == ("", "", "", "")


def test_only_what_differs_is_restored_and_shown() -> None:
    desired = Desired({("nat", "L4-A"): ["one", "two"], ("nat", "L4-B"): ["x"], ("nat", "L4-C"): []})
    observed = Observed({("nat", "L4-A"): ["one"], ("nat", "L4-B"): ["x"], ("nat", "L4-D"): ["old"]})
    result = plan(desired, observed)
    assert _lines(result.restore) == [
        "*nat",
        ":L4-A - [0:0]",
        ":L4-C - [0:0]",
        ":L4-D - [0:0]",
        "-A L4-A one",
        "-A L4-A two",
        "-X L4-D",
        "COMMIT",
    ]
    assert _lines(result.before) == ["*nat", ":L4-D - [0:0]", "-A L4-D old", "COMMIT"]
    assert _lines(result.after) == ["*nat", ":L4-C - [0:0]", "-A L4-A two", "COMMIT"]
    assert _lines(result.undo) == [
        "*nat",
        ":L4-A - [0:0]",
        ":L4-C - [0:0]",
        ":L4-D - [0:0]",
        "-A L4-A one",
        "-A L4-D old",
        "-X L4-C",
        "COMMIT",
    ]


def test_a_missing_jump_is_put_at_its_end_and_foreign_rules_stay() -> None:
    jumps = [
        Jump("nat", "OUTPUT", "-j L4-A"),
        Jump("nat", "OUTPUT", "-j L4-B"),
        Jump("nat", "OUTPUT", "-j L4-C", "last"),
    ]
    chains: dict[tuple[str, str], list[str]] = {("nat", f"L4-{name}"): [] for name in "ABC"}
    result = plan(Desired(dict(chains), jumps), Observed(dict(chains), {("nat", "OUTPUT"): ["-j DOCKER"]}))
    assert _lines(result.restore) == [
        "*nat",
        "-I OUTPUT 1 -j L4-B",
        "-I OUTPUT 1 -j L4-A",
        "-A OUTPUT -j L4-C",
        "COMMIT",
    ]
    assert _lines(result.undo) == ["*nat", "-D OUTPUT -j L4-A", "-D OUTPUT -j L4-B", "-D OUTPUT -j L4-C", "COMMIT"]


@pytest.mark.parametrize(
    ("rules", "moves"),
    [
        ([JUMP], False),
        (["-j cali-PREROUTING", "-m addrtype --dst-type LOCAL -j f2b-sshd", JUMP], False),
        (["-d 10.0.0.1/32 -j ACCEPT", JUMP], True),
        (["-p tcp", JUMP], True),
        ([JUMP, JUMP], True),
    ],
)
def test_an_anchored_jump_gives_way_to_jumps_alone(rules: list[str], moves: bool) -> None:
    chains = {("nat", "L4-A"): ["-j RETURN"]}
    desired = Desired(dict(chains), [Jump(*HOOK, JUMP, "first", anchored=True)])
    result = plan(desired, Observed(dict(chains), {HOOK: rules}))
    assert result.changed is moves
    if moves:
        assert f"-I PREROUTING 1 {JUMP}" in _lines(result.restore)


@pytest.mark.parametrize("in_front", [[], ["-d 10.0.0.1/32 -j ACCEPT", "-p tcp"]])
@pytest.mark.parametrize(
    ("behind", "moves"), [([], False), (["-j f2b-sshd"], False), (["-d 10.0.0.1/32 -j ACCEPT"], True)]
)
def test_a_jump_at_the_end_is_anchored_there(in_front: list[str], behind: list[str], moves: bool) -> None:
    chains = {("nat", "L4-A"): ["-j RETURN"]}
    desired = Desired(dict(chains), [Jump(*HOOK, JUMP, "last", anchored=True)])
    assert plan(desired, Observed(dict(chains), {HOOK: [*in_front, JUMP, *behind]})).changed is moves


def test_a_jump_that_is_not_anchored_stays_where_it_is() -> None:
    chains = {("nat", "L4-A"): ["-j RETURN"]}
    desired = Desired(dict(chains), [Jump(*HOOK, JUMP)])
    assert not plan(desired, Observed(dict(chains), {HOOK: ["-d 10.0.0.1/32 -j ACCEPT", JUMP]})).changed


def test_what_only_moves_is_shown_in_both_orders() -> None:
    result = plan(Desired({("nat", "L4-A"): ["b", "a", "c"]}), Observed({("nat", "L4-A"): ["a", "b", "c"]}))
    assert _lines(result.before)[1:-1] == ["-A L4-A a", "-A L4-A b"]
    assert _lines(result.after)[1:-1] == ["-A L4-A b", "-A L4-A a"]


def test_a_stale_jump_goes_with_its_chain_and_undo_restores_its_place() -> None:
    observed = Observed({("nat", "L4-A"): ["x"]}, {HOOK: ["-j DOCKER", JUMP, "-j RETURN"]})
    result = plan(Desired(), observed)
    assert _lines(result.restore) == ["*nat", ":L4-A - [0:0]", f"-D PREROUTING {JUMP}", "-X L4-A", "COMMIT"]
    assert f"-I PREROUTING 2 {JUMP}" in _lines(result.undo)


def test_long_chains_are_told_apart_line_by_line_too() -> None:
    old = [f"rule {number}" for number in range(5000)]
    new = ["first", *old[:2000], *old[2001:], "last"]
    result = plan(Desired({("nat", "L4-A"): new}), Observed({("nat", "L4-A"): old}))
    assert _lines(result.before) == ["*nat", "-A L4-A rule 2000", "COMMIT"]
    assert _lines(result.after) == ["*nat", "-A L4-A first", "-A L4-A last", "COMMIT"]


def test_a_target_is_not_looked_for_in_quotes() -> None:
    assert target_of('-m comment --comment "x -j DROP" -g L4-A') == "L4-A"
    assert target_of('-m comment --comment "\\" -j DROP"') is None
