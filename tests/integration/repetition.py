# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parameters of a test that other parameters cover: `make test-kernels` runs them, and `make test` does not."""

from __future__ import annotations

from typing import Any

import pytest

MARK = pytest.mark.repetition


def repetition(*values: Any) -> Any:
    """For `parametrize` and the parameters of fixtures: these values, marked."""
    return pytest.param(*values, marks=MARK)
