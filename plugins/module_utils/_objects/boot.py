# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node needs to bring its services back after a boot, as a run has it in hand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .iptables import Desired
from .ipvs import Timeouts
from .overlay import Item

if TYPE_CHECKING:
    from .nftables import Table

UNCHANGED_TIMEOUTS = Timeouts(0, 0, 0)


class BootState(NamedTuple):
    """All that is ours of a node's kernel state. What is empty is not restored."""

    rules: Mapping[str, Desired] = {}
    """By address family: our iptables chains, and the jumps to them."""
    sets: str = ""
    """Lines of ``ipset save``, those that create in front of those that add; without remembered clients."""
    nftables: Mapping[str, Table] = {}
    """By address family: our table."""
    ipvs: Sequence[str] = ()
    """Lines of ``ipvsadm -Sn``, a virtual service in front of its destinations."""
    ipvs_timeouts: Timeouts = UNCHANGED_TIMEOUTS
    """Of those in seconds, 0 leaves one as it is."""
    addresses: Sequence[str] = ()
    """Of the dummy device."""
    overlay: Sequence[Item] = ()
    """What makes the overlay."""
    sysctls: Mapping[str, int] = {}
    """Those that may be set only where the rules stand, by their names with slashes."""
