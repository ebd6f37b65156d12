# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that is done while tools keep other processors busy."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

Made = TypeVar("Made")
_TURN = 0.0005
"""Seconds that a thread has the interpreter for while another waits for it: who starts a tool is kept waiting several times."""


def start_in_background(make: Callable[[], Made]) -> Callable[[], Made]:
    """Begin to make a value in a thread. What comes back waits for the value, and raises what kept it from being made."""
    sys.setswitchinterval(_TURN)
    executor = ThreadPoolExecutor(1)
    made = executor.submit(make)
    executor.shutdown(wait=False)
    return made.result
