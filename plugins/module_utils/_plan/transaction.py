# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several kernel facilities changed as one: if a later one fails, the earlier ones are put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple


class Step(NamedTuple):
    """A change to one facility, whole or not at all, and its way back."""

    apply: Callable[[], None]
    undo: Callable[[], None]


class UndoFailed(Exception):
    """A change failed (``__cause__``), and what had been done before it could not all be put back."""


def run(steps: Sequence[Step]) -> None:
    """Apply the steps in order. Raises what a failing step raised, after undoing those before it."""
    done: list[Step] = []
    for step in steps:
        try:
            step.apply()
        except Exception as error:
            _undo(done, error)
            raise
        done.append(step)


def _undo(done: Sequence[Step], error: Exception) -> None:
    failures = []
    for step in reversed(done):
        try:
            step.undo()
        except Exception as failure:
            failures.append(str(failure))
    if failures:
        raise UndoFailed(f"{error}; and what was done before could not be put back: {'; '.join(failures)}") from error
