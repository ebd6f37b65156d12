# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let mutants show in what code computes once and keeps: a plugin of pytest for `mutants.py`.

mutmut tries a mutant in a fork of the process that has run all tests before. What functions with `lru_cache` have kept
from then, and what modules have computed when they were imported, would stand in for what the mutant computes.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from mutmut.state import state

_CACHED = type(lru_cache(len))
_caches: list[Any] = []
_at_import: set[str] = set()
"""The functions that run while modules are imported."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Have all modules of the tree imported anew where the changed function runs while they are."""
    if os.environ["MUTANT_UNDER_TEST"].partition("__mutmut_")[0] in _at_import:
        for name in [name for name, module in sys.modules.items() if _is_of_the_tree(module)]:
            del sys.modules[name]


def _is_of_the_tree(module: Any) -> bool:
    return Path.cwd() in Path(getattr(module, "__file__", None) or "/").parents


def pytest_collection_finish() -> None:
    """Find all caches; and, while mutmut notes which test runs which function, those that modules run themselves."""
    _caches[:] = [one for one in gc.get_objects() if isinstance(one, _CACHED)]
    if os.environ["MUTANT_UNDER_TEST"] == "stats":
        _at_import.update(state()._stats)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Empty the caches."""
    for cache in _caches:
        cache.cache_clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Have a function that modules run count as run by each test."""
    if os.environ["MUTANT_UNDER_TEST"] == "stats":
        state()._stats.update(_at_import)
