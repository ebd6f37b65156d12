# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One facility's difference between what a node is to be and what it is, ready to be applied."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Callable


class NodeError(Exception):
    """The node cannot be made what it was asked to be; the text is one line for the user."""


def _nothing() -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Change:
    """What one facility changes; check mode stops before `apply`."""

    name: str
    """Heading of its part of the diff; empty where the lines have headings of their own."""
    before: str = ""
    """Lines that are removed, each with its line end."""
    after: str = ""
    """Lines that are added."""
    apply: Callable[[], None] = _nothing
    """Makes the change; raises NodeError or what its facility says."""

    @property
    def changed(self) -> bool:
        return self.before != self.after


def lines(texts: Iterable[str]) -> str:
    """Return the texts as lines."""
    return "".join(f"{text}\n" for text in texts)


def merge_diffs(changes: Sequence[Change]) -> dict[str, str]:
    """Return one diff, each change under its heading."""
    sides = {"before": [one.before for one in changes], "after": [one.after for one in changes]}
    return {
        side: "".join(f"# {one.name}\n{text}" if one.name else text for one, text in zip(changes, texts) if text)
        for side, texts in sides.items()
    }


def printable(name: str) -> str:
    """Return a name found on a host as one printable word: as it is, or with JSON's escapes."""
    return name if name.isprintable() and name.isascii() else json.dumps(name)[1:-1]
