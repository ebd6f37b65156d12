# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between the wanted overlay and the one that the kernel has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._objects.overlay import HEADINGS, Item, Tunnel, in_order, is_on_device, key, text


class Change(NamedTuple):
    """One item that is made, replaced by another with the same key, or removed."""

    old: Item | None
    new: Item | None

    @property
    def inverse(self) -> Change:
        return Change(self.new, self.old)


def plan(wanted: Sequence[Item], held: Sequence[Item]) -> list[Change]:
    """Return the changes in their order: what is made comes before what goes, so that no destination is without its route.

    A device that has to be made anew takes all that is on it along.
    """
    if _is_new_device(wanted, held):
        gone = [one for one in held if is_on_device(one)]
        stays = [one for one in held if not is_on_device(one)]
        return [*_removals(gone), *plan(wanted, stays)]
    before = {key(one): one for one in held}
    after = {key(one): one for one in wanted}
    made = [one for one in in_order(wanted) if before.get(key(one)) != one]
    return [
        *(Change(before.get(key(one)), one) for one in made),
        *_removals([one for one in held if key(one) not in after]),
    ]


def _is_new_device(wanted: Sequence[Item], held: Sequence[Item]) -> bool:
    ours, now = ([one for one in items if isinstance(one, Tunnel)] for items in (wanted, held))
    return bool(ours and now) and not ours[0].is_same_device(now[0])


def _removals(items: Sequence[Item]) -> list[Change]:
    return [Change(one, None) for one in reversed(in_order(items))]


def diff(changes: Sequence[Change]) -> dict[str, str]:
    """Return what is no longer so and what is so from now on, each kind under the tool that shows it."""
    old = {one.old for one in changes if one.old is not None}
    new = {one.new for one in changes if one.new is not None}
    return {"before": _lines(old - new), "after": _lines(new - old)}


def _lines(items: set[Item]) -> str:
    found, last = [], ""
    for one in in_order(items):
        heading = HEADINGS[type(one)]
        found += [f"# {heading}\n"] if heading != last else []
        found.append(text(one) + "\n")
        last = heading
    return "".join(found)
