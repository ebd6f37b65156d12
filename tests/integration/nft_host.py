# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host for tests of nftables: a namespace of its own, and nft(8) as the judge of what the kernel holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from typing import Callable, TypeVar

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Table
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import NftChange, TableId
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import Tables, plan_tables
from lab.namespaces import Namespace

Result = TypeVar("Result")
_numbers = count()


class NftHost:
    """A namespace of its own, and what is done in it."""

    def __init__(self) -> None:
        self.namespace = Namespace(f"l4nft{os.getpid()}n{next(_numbers)}")

    def __enter__(self) -> NftHost:
        self.namespace.create()
        return self

    def __exit__(self, *_error: object) -> None:
        self.namespace.delete()

    def within(self, function: Callable[[Nftables], Result]) -> Result:
        """Call a function with the tables of this host."""

        def run() -> Result:
            with Nftables() as nft:
                return function(nft)

        return self.namespace.call(run)

    def read(self, *wanted: TableId) -> dict[TableId, Table]:
        return self.within(lambda nft: nft.tables(wanted)[0])

    def apply(self, changes: Sequence[NftChange], generation: int | None = None) -> None:
        self.within(lambda nft: nft.apply(changes, generation))

    def converge(self, wanted: Tables, held: Tables) -> None:
        plan = plan_tables(wanted, held)
        for transaction in plan.transactions(self.within(Nftables.send_limit)):
            self.apply(transaction)

    def nft(self, *words: str, text: str = "") -> str:
        return self.namespace.run("nft", *words, input=text).stdout
