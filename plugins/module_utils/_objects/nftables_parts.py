# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our tables of nftables, and which part of a node their chains and sets belong to. Pure.

The services of a node and the roles bridge and backend share the tables, and each leaves what is not its own alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Callable

from .nftables import Table
from .nftables_changes import TableId

NAME = "l4-service-proxy"
TABLES = {"ipv4": TableId("ip", NAME), "ipv6": TableId("ip6", NAME)}
"""By address family."""
Held = dict[TableId, Table]
IsOwn = Callable[[str], bool]
"""Whether a chain or set of this name belongs to a part."""

_PREFIXES = {"bridge": "bridge-", "backend": "backend-"}
"""What the names of a role's chains and sets begin with; everything else is of the services."""


def is_of_services(name: str) -> bool:
    return not name.startswith(tuple(_PREFIXES.values()))


def is_of(role: str) -> IsOwn:
    """Return what tells the chains and sets of a role, bridge or backend."""
    return partial(_begins_with, _PREFIXES[role])


def _begins_with(prefix: str, name: str) -> bool:
    return name.startswith(prefix)


def left_empty(wanted: Mapping[TableId, Table], shared: Mapping[TableId, bool]) -> Held:
    """Return what is wanted, with tables that have to stay because they are shared with another part."""
    empty = {one: Table(one.family, one.name, {}, {}, {}) for one, is_shared in shared.items() if is_shared}
    return {**empty, **wanted}
