# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a part of a node has in our tables of nftables: read, and changed without touching what other parts have there."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Callable

from .._kernel.nftables import Nftables
from .._kernel.nftables_digest import digest_of
from .._objects.nftables import Elements, SetHeader
from .._objects.nftables_changes import NftError, TableId
from .._objects.nftables_parts import TABLES, Held, IsOwn, left_empty
from .._plan.nftables import NftPlan, plan_tables


class OwnTables:
    """The chains and sets of a part in this network namespace. Everything may raise NftError or NftRefusedError.

    is_own: tells the names of the part's chains and sets. opened: reaches nf_tables.
    """

    def __init__(self, is_own: IsOwn, opened: Callable[[], Nftables] = Nftables) -> None:
        self._is_own, self._opened = is_own, opened

    def generation(self) -> int:
        """Return a number that is another one as soon as anything of nftables has changed."""
        with self._opened() as nft:
            return nft.generation()

    def read(self) -> tuple[Held, int]:
        """Return the tables in which the part or nobody has anything, with nothing of other parts, and the generation."""
        with self._opened() as nft:
            return self._read(nft)

    def _read(self, nft: Nftables) -> tuple[Held, int]:
        held, generation = nft.tables(list(TABLES.values()), self._is_own)
        return {
            one: table for one, table in held.items() if table.chains or table.sets or not nft.names(one)
        }, generation

    def elements(self, table: TableId, headers: Mapping[str, SetHeader]) -> dict[str, Elements]:
        """Return the elements of these sets and maps, by name."""
        with self._opened() as nft:
            return {name: nft.elements(table, name, header) for name, header in headers.items()}

    def counters(self, table: TableId, headers: Mapping[str, SetHeader]) -> dict[str, dict[bytes, int]]:
        """Return how many packets the elements of these sets and maps have counted, by name and key."""
        with self._opened() as nft:
            return {
                name: {key: counted.packets for key, counted in nft.counters(table, name, header).items()}
                for name, header in headers.items()
            }

    def devices(self, table: TableId) -> tuple[set[str], set[str]]:
        """Return the devices of a table's flow tables, and those of this network namespace."""
        with self._opened() as nft:
            offloading = {device for one in nft.flowtables(table).values() for device in one.devices}
        return offloading, {name for _index, name in socket.if_nameindex()}

    def digest(self) -> tuple[str, int]:
        """Return a digest of what `read` returns, the same as long as nobody changes it, and the generation; empty where that fails."""
        try:
            with self._opened() as nft:
                return digest_of(nft, list(TABLES.values()), self._is_own)
        except NftError:
            return "", 0

    def fits(self, plan: NftPlan) -> bool:
        """Tell whether no transaction has to be split for its size."""
        with self._opened() as nft:
            return len(plan.transactions(nft.send_limit())) <= 1 + bool(plan.cleanup)

    def apply(self, plan: NftPlan) -> int:
        """Make what is wanted of what is held, or leave all as it is; how many transactions that took."""
        with self._opened() as nft:
            spared = self._sparing(nft, plan)
            transactions = spared.transactions(nft.send_limit())
            done = 0
            try:
                for transaction in transactions:
                    nft.apply(transaction)
                    done += 1
            except Exception:
                if done:
                    self._put_back(nft, spared, only_cleanup=bool(spared.cleanup) and done == len(transactions) - 1)
                raise
        return done

    def _sparing(self, nft: Nftables, plan: NftPlan) -> NftPlan:
        """The plan, which empties a table instead of deleting it where another part has something there."""
        gone = plan.held.keys() - plan.wanted.keys()
        if not gone:
            return plan
        shared = {one: not all(map(self._is_own, nft.names(one))) for one in gone}
        return plan_tables(left_empty(plan.wanted, shared), plan.held)

    def _put_back(self, nft: Nftables, plan: NftPlan, only_cleanup: bool) -> None:
        """Take back the first of several transactions. only_cleanup: whether all but the last are done, and that is the cleanup."""
        back = plan.undo_before_cleanup() if only_cleanup else plan_tables(plan.held, self._read(nft)[0])
        for transaction in self._sparing(nft, back).transactions(nft.send_limit()):
            nft.apply(transaction)
