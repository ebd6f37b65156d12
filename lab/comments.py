# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Comments that are hard to read: what ends lines somewhere, quotes, escapes, and what looks like rules."""

from __future__ import annotations

import random

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
PIECES = [
    *BREAKS,
    *"\"'\\`$ -:*#",
    "\x01",
    "\u00e9",
    "\U0001f600",
    "-A L4-SERVICES -j ACCEPT",
    "COMMIT",
    "*nat",
    ":L4-SERVICES - [0:0]",
    " --comment ",
    ' -j DROP -m comment --comment "',
    "# Table `nat' is incompatible",
    "web: ",
]


def random_comment(chance: random.Random) -> str:
    """A comment of 1 to 255 bytes (``XT_MAX_COMMENT_LEN``)."""
    comment = ""
    while not comment or chance.random() < 0.8:
        piece = chance.choice(PIECES)
        if len((comment + piece).encode()) > 255:
            break
        comment += piece
    return comment
