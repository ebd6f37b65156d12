# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many of all cases a unit test tries: all on the controller's Python, some on each Python of managed hosts.

There, the question is whether the code runs on that Python, not whether the semantics hold: those do not depend on it.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable
from typing import TypeVar

from hypothesis import settings

Item = TypeVar("Item")

ON_CONTROLLER = importlib.util.find_spec("yaml") is not None
"""Environments of managed hosts' Pythons have no more than pytest and ansible-core's module_utils."""
EXAMPLES = 40 if ON_CONTROLLER else 6
_STEP = 1 if ON_CONTROLLER else 11

settings.register_profile("managed host", max_examples=EXAMPLES, deadline=None, derandomize=True)
settings.register_profile("controller", deadline=None, derandomize=True)


def some(cases: Iterable[Item]) -> Iterable[Item]:
    return itertools.islice(cases, 0, None, _STEP)
