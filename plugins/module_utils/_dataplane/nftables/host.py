# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is needed of nf_tables on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..._objects.nftables import Elements, SetHeader, Table
from ..._objects.nftables_changes import TableId
from ..._objects.nftables_parts import TABLES, Held, is_of_services
from ..._plan.nftables import NftPlan
from ..interface import Host
from ..own_tables import OwnTables
from . import maps

__all__ = ("TABLES", "Facility", "Held", "maps_of", "own_tables")


class Facility(Protocol):
    """Our tables, without what other parts of the node have there. All of it may raise NftError or NftRefusedError."""

    def generation(self) -> int:
        """Return a number that is another one as soon as anything of nftables has changed."""

    def read(self) -> tuple[Held, int]:
        """Return those that are there, whole, and the generation."""

    def elements(self, table: TableId, headers: Mapping[str, SetHeader]) -> Mapping[str, Elements]:
        """Return the elements of these sets and maps, by name."""

    def counters(self, table: TableId, headers: Mapping[str, SetHeader]) -> Mapping[str, Mapping[bytes, int]]:
        """Return how many packets the elements of these sets and maps have counted, by name and key."""

    def devices(self, table: TableId) -> tuple[set[str], set[str]]:
        """Return the devices of a table's flow tables, and those that there are."""

    def digest(self) -> tuple[str, int]:
        """Return a digest of our tables, the same as long as nobody changes them, and the generation; empty where that fails."""

    def fits(self, plan: NftPlan) -> bool:
        """Tell whether no transaction has to be split for its size."""

    def apply(self, plan: NftPlan) -> int:
        """Make the wanted tables of those that are held, or leave these as they are; how many transactions that took."""


def own_tables(dummy: Host) -> Facility:
    return OwnTables(is_of_services)


def maps_of(table: Table | None) -> maps.Maps:
    """Return the elements of a table by the map or set that holds them."""
    return {name: one.elements for name, one in table.sets.items()} if table else {}
