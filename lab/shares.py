# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pearson's chi-square test of observed shares against weights, without SciPy."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

MAXIMUM_TERMS = 10_000
PRECISION = 1e-14
TINY = 1e-300


def share_test(observed: Mapping[Key, int], expected_weights: Mapping[Key, float]) -> float:
    """The chance that counts as uneven as these come from these weights (the p-value).

    A count where nothing is expected gives 0. Needs at least one observation and one positive weight (ValueError).
    """
    total = sum(observed.values())
    weights = {key: weight for key, weight in expected_weights.items() if weight > 0}
    if not total or not weights:
        raise ValueError("a share needs observations and a positive weight")
    if any(count for key, count in observed.items() if key not in weights):
        return 0.0
    whole = sum(weights.values())
    statistic = 0.0
    for key, weight in weights.items():
        expected = total * weight / whole
        statistic += (observed.get(key, 0) - expected) ** 2 / expected
    return chi_square_survival(statistic, len(weights) - 1)


def chi_square_survival(statistic: float, degrees: int) -> float:
    """P(X >= statistic) of a chi-square variable; with no degrees of freedom there is nothing to doubt."""
    if degrees < 1 or statistic <= 0:
        return 1.0
    return upper_gamma_regularised(degrees / 2.0, statistic / 2.0)


def upper_gamma_regularised(a: float, x: float) -> float:
    """Q(a, x): by its series below a + 1, by its continued fraction above (Abramowitz and Stegun 6.5.29, 6.5.31)."""
    if x < a + 1:
        return 1.0 - _lower_by_series(a, x)
    return _upper_by_fraction(a, x)


def _scale(a: float, x: float) -> float:
    return math.exp(a * math.log(x) - x - math.lgamma(a))


def _lower_by_series(a: float, x: float) -> float:
    term = total = 1.0 / a
    for step in range(1, MAXIMUM_TERMS):
        term *= x / (a + step)
        total += term
        if term < total * PRECISION:
            break
    return total * _scale(a, x)


def _upper_by_fraction(a: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction."""
    b = x + 1.0 - a
    c = 1.0 / TINY
    d = 1.0 / b
    fraction = d
    for step in range(1, MAXIMUM_TERMS):
        numerator = -step * (step - a)
        b += 2.0
        d = 1.0 / (numerator * d + b or TINY)
        c = b + numerator / c or TINY
        fraction *= c * d
        if abs(c * d - 1.0) < PRECISION:
            break
    return fraction * _scale(a, x)
