# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection that a side effect of a scenario keeps open."""

from __future__ import annotations

import time
from typing import Callable


def assert_held(heard: Callable[[], str]) -> None:
    """It is open, got one answer after another from one backend only, and still gets more.

    heard: what it has got so far.
    """
    before = heard().splitlines()
    time.sleep(0.5)
    after = heard().splitlines()
    assert len(set(after)) == 1, set(after)
    assert len(after) > len(before)
