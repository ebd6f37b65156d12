# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document of the traffic semantics is true: every line that it says is proved has its test."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toolchain"))

from semantics_table import DOCUMENT, proofs, with_table

# Of the node role: proved by the scenarios' tests, which look at sysctls and connections together.
BY_SCENARIOS = {24}


def test_the_table_of_proofs_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == with_table(DOCUMENT.read_text()), "run tests/toolchain/semantics_table.py"


# Of IPVS alone. Line 23, the switch between dataplanes, is proved where both are.
OF_IPVS = {22, 28}


def test_every_line_is_proved() -> None:
    lines = {int(number) for number in re.findall(r"(?m)^(\d+)\. ", DOCUMENT.read_text())}
    assert lines == set(range(1, 29))
    assert lines - {proof.line for proof in proofs()} == BY_SCENARIOS


def test_every_line_is_proved_for_each_dataplane() -> None:
    lines = set(range(1, 29)) - BY_SCENARIOS
    assert lines - {proof.line for proof in proofs() if proof.iptables} == OF_IPVS | {23}
    assert lines - {proof.line for proof in proofs() if proof.ipvs} == set()
