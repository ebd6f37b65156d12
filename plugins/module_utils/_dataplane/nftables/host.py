# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is needed of nf_tables on the host."""

from __future__ import annotations

from typing import Callable, Protocol

from ..._kernel.nftables import Nftables
from ..._model import addresses as ip
from ..._objects.nftables import Table
from ..._objects.nftables_changes import TableId
from ..._plan.nftables import NftPlan, Tables, plan_tables
from ..interface import Host
from . import maps
from .presence import TABLE

TABLES = {family: TableId(maps.NFT_FAMILIES[family], TABLE) for family in ip.FAMILIES}
"""Ours, by address family."""
Held = dict[TableId, Table]


class Facility(Protocol):
    """Our tables. All of it may raise NftError or NftRefusedError."""

    def generation(self) -> int:
        """Return a number that is another one as soon as anything of nftables has changed."""

    def read(self) -> tuple[Held, int]:
        """Return those that are there, whole, and the generation."""

    def apply(self, plan: NftPlan) -> int:
        """Make the wanted tables of those that are held, or leave these as they are; how many transactions that took."""


class OwnTables:
    """Our tables in this network namespace. opened: reaches nf_tables."""

    def __init__(self, opened: Callable[[], Nftables] = Nftables) -> None:
        self._opened = opened

    def generation(self) -> int:
        with self._opened() as nft:
            return nft.generation()

    def read(self) -> tuple[Held, int]:
        with self._opened() as nft:
            return nft.tables(list(TABLES.values()))

    def apply(self, plan: NftPlan) -> int:
        with self._opened() as nft:
            done = 0
            try:
                for transaction in plan.transactions(nft.send_limit()):
                    nft.apply(transaction)
                    done += 1
            except Exception:
                if done:
                    self._put_back(nft, plan.held)
                raise
        return done

    def _put_back(self, nft: Nftables, held: Tables) -> None:
        """Take back the first of several transactions."""
        for transaction in plan_tables(held, nft.tables(list(TABLES.values()))[0]).transactions(nft.send_limit()):
            nft.apply(transaction)


def own_tables(dummy: Host) -> Facility:
    return OwnTables()


def maps_of(table: Table | None) -> maps.Maps:
    """Return the elements of a table by the map or set that holds them."""
    return {name: one.elements for name, one in table.sets.items()} if table else {}
