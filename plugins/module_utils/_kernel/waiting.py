# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for what another process has."""

from __future__ import annotations

import time
from typing import Callable

_PAUSE = 0.05


def wait_until(is_true: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within this time; it is checked at least once."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True
