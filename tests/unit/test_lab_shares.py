# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chi-square test against published values and closed forms."""

from __future__ import annotations

import math

import pytest

from lab.shares import chi_square_survival, share_test


@pytest.mark.parametrize(
    ("statistic", "degrees", "expected"),
    [
        (3.841459, 1, 0.05),
        (6.634897, 1, 0.01),
        (10.827566, 1, 0.001),
        (5.991465, 2, 0.05),
        (13.815511, 2, 0.001),
        (7.814728, 3, 0.05),
        (18.307038, 10, 0.05),
        (3.940299, 10, 0.95),
        (124.342113, 100, 0.05),
        (77.929465, 100, 0.95),
    ],
)
def test_survival_agrees_with_published_tables(statistic: float, degrees: int, expected: float) -> None:
    assert chi_square_survival(statistic, degrees) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("statistic", [0.01, 0.5, 1.0, 2.0, 7.0, 40.0, 400.0])
def test_survival_agrees_with_closed_forms(statistic: float) -> None:
    assert chi_square_survival(statistic, 1) == pytest.approx(math.erfc(math.sqrt(statistic / 2)), rel=1e-9)
    assert chi_square_survival(statistic, 2) == pytest.approx(math.exp(-statistic / 2), rel=1e-9)


def test_exact_shares_are_beyond_doubt() -> None:
    assert share_test({"one": 7500, "two": 2500}, {"one": 3, "two": 1}) == 1.0
    assert share_test({"one": 10000}, {"one": 1}) == 1.0
    assert share_test({"one": 10000}, {"one": 1, "none": 0}) == 1.0


def test_shares_of_another_weight_are_refused() -> None:
    assert share_test({"one": 5000, "two": 5000}, {"one": 3, "two": 1}) < 1e-9
    assert share_test({"one": 5300, "two": 4700}, {"one": 1, "two": 1}) < 1e-6
    assert share_test({"one": 10000}, {"one": 1, "two": 1}) < 1e-9


def test_an_answer_from_where_none_is_expected_is_refused() -> None:
    assert share_test({"one": 9999, "stranger": 1}, {"one": 1}) == 0.0
    assert share_test({"one": 9999, "drained": 1}, {"one": 1, "drained": 0}) == 0.0


@pytest.mark.parametrize(("observed", "weights"), [({}, {"one": 1}), ({"one": 1}, {}), ({"one": 1}, {"one": 0})])
def test_nothing_to_compare_is_an_error(observed: dict[str, int], weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share needs"):
        share_test(observed, weights)
