# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A flow as connection tracking knows it."""

from __future__ import annotations

from typing import NamedTuple

Endpoint = tuple[str, int]
"""An address and a port."""


class Flow(NamedTuple):
    """One entry. destination: to where it was sent; reply_source: from where it is answered, which is the same unless
    the destination was translated. live: False when the connection is over and only its ports wait to be free again.
    key: by what the kernel finds the entry.
    """

    protocol: str
    family: str
    destination: Endpoint
    reply_source: Endpoint
    live: bool
    key: bytes

    @property
    def translated(self) -> bool:
        """Whether its destination was."""
        return self.reply_source != self.destination
