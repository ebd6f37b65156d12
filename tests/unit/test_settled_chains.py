# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chains are not read again as long as nobody changes a rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settled_chains import SettledChains

WANTED = [{"chain": "L4-BACKEND", "rules": ["-s 10.0.0.0/24 -j ACCEPT"]}]


class Rules:
    """A count of changes."""

    def __init__(self) -> None:
        self.count = 7

    def state(self) -> str:
        return str(self.count)


def chains(rules: Rules, directory: Path, name: str = "namespace") -> SettledChains:
    return SettledChains(rules.state, directory / "run", lambda: name)


def test_what_was_read_and_is_unchanged_is_as_wanted(tmp_path: Path) -> None:
    rules = Rules()
    assert not chains(rules, tmp_path).are_as_wanted("backend", WANTED)
    chains(rules, tmp_path).keep("backend", WANTED)
    assert chains(rules, tmp_path).are_as_wanted("backend", WANTED)


@pytest.mark.parametrize("other", ["rules", "wanted", "part", "namespace", "damage"])
def test_whatever_is_other_is_read_again(tmp_path: Path, other: str) -> None:
    rules = Rules()
    chains(rules, tmp_path).keep("backend", WANTED)
    rules.count += other == "rules"
    if other == "damage":
        (tmp_path / "run" / "chains-namespace").write_text('["backend"]')
    found = chains(rules, tmp_path, "other" if other == "namespace" else "namespace")
    assert not found.are_as_wanted("bridge" if other == "part" else "backend", [] if other == "wanted" else WANTED)


def test_what_changes_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    rules = Rules()
    reading = chains(rules, tmp_path)
    rules.count += 1
    reading.keep("backend", WANTED)
    assert not chains(rules, tmp_path).are_as_wanted("backend", WANTED)


def test_where_nothing_tells_nothing_is_kept(tmp_path: Path) -> None:
    SettledChains(str, tmp_path, lambda: "namespace").keep("backend", WANTED)
    assert not SettledChains(str, tmp_path, lambda: "namespace").are_as_wanted("backend", WANTED)
    assert list(tmp_path.iterdir()) == []
