# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps of a run with the one that leaves something for the next run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, TypeVar

from .._kernel.background import start_in_background
from .._plan.transaction import Step

Made = TypeVar("Made")


def with_record(
    steps: Sequence[Step], make: Callable[[], Made], save: Callable[[Made], None], forget: Callable[[], None]
) -> list[Step]:
    """Return the steps, and behind them one that saves what is made in a thread while they keep other processors busy.

    forget: what takes the record back.
    """
    begun: list[Callable[[], Made]] = []
    begin = Step(lambda: begun.append(start_in_background(make)), nothing)
    return [begin, *steps, Step(lambda: save(begun[0]()), forget)]


def nothing() -> None:
    """There is nothing to take back: a set goes with its clients, and a record is only ever a shortcut."""
