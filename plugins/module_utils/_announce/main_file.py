# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The main file of a daemon, which includes ours: a minimal one where there is none, else the user's with two lines in front. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

_MARK = "# The role layer4.service_proxy.announce has put this line and the next here, and takes them away again."
_MADE = "# The role layer4.service_proxy.announce has made this file, since there was none, and removes it again."
_INCLUDE = re.compile(r"""^\s*include[a-z]?\s+["']?([^"';\s]+)["']?\s*;?\s*(?:[#!].*)?$""", re.MULTILINE)


class MainFile(NamedTuple):
    """Where a daemon's main file is, and what stands in it for ours."""

    path: str
    own: str
    """The path of our file."""
    include: str
    """The line that includes it."""
    minimal: str
    """What a main file of our own has beside that."""

    @property
    def made(self) -> str:
        return f"{_MADE}\n{self.include}\n{self.minimal}"

    @property
    def _prefix(self) -> str:
        return f"{_MARK}\n{self.include}\n"

    def included(self, text: str | None) -> str:
        """Return the text of the main file with ours included. text: None where there is no file."""
        if text is None:
            return self.made
        if text.startswith(_MADE) or self._is_included(text):
            return text
        return self._prefix + text

    def without(self, text: str | None) -> str | None:
        """Return the text as it was before `included`; None: there was no file. What a user has added to one that we made stays."""
        if text is None or text == self.made:
            return None
        if text.startswith(_MADE):
            return text.replace(f"{_MADE}\n{self.include}\n", "", 1)
        return text.replace(self._prefix, "", 1)

    def tested(self, text: str, own: str) -> str:
        """Return the text of a main file with another path in place of that of ours."""
        return text.replace(self.include, self.include.replace(self.own, own))

    def _is_included(self, text: str) -> bool:
        return any(fnmatchcase(self.own, one) for one in self._included_paths(text))

    def _included_paths(self, text: str) -> Iterator[str]:
        """The patterns of files that it includes: relative ones are meant from its own directory."""
        for pattern in _INCLUDE.findall(text):
            yield posixpath.join(posixpath.dirname(self.path), pattern)


def lines_of(before: str | None, after: str | None) -> tuple[str, str]:
    """Return the lines that differ between two texts, of which one is the other with lines in front, or there is only one."""
    if before is None or after is None:
        return before or "", after or ""
    if after.endswith(before):
        return "", after[: len(after) - len(before)]
    return (before[: len(before) - len(after)], "") if before.endswith(after) else (before, after)
