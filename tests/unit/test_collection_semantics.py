# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that every line of docs/semantics.md has a test, and that docs/proofs.md names it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toolchain"))

from semantics_table import PROOFS, SEMANTICS, proofs, with_table

OF_THE_NODE = {24}
"""Of the role node, whatever the dataplane."""
OF_IPVS = {22, 28}
"""Of IPVS alone. Line 23, the switch between dataplanes, is proved where both are."""


def test_the_table_of_proofs_is_up_to_date() -> None:
    assert PROOFS.read_text() == with_table(PROOFS.read_text()), "run tests/toolchain/semantics_table.py"


def test_every_line_is_proved() -> None:
    lines = {int(number) for number in re.findall(r"(?m)^(\d+)\. ", SEMANTICS.read_text())}
    assert lines == {*range(1, 29), 30, 31, 32, 33}
    assert {proof.line for proof in proofs()} == lines


def test_every_line_is_proved_for_each_dataplane() -> None:
    lines = {*range(1, 29), 31, 32, 33} - OF_THE_NODE
    assert lines - {proof.line for proof in proofs() if proof.iptables} == OF_IPVS
    assert lines - {proof.line for proof in proofs() if proof.ipvs} == set()
