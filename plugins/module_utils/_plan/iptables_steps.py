# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables plans of both address families, tested, shown and applied as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple, Protocol

from .._objects.iptables import COMMANDS
from .iptables import ChainPlan
from .transaction import Step, run


class Tables(Protocol):
    """What is needed of an address family's iptables (`_kernel.iptables.Xtables`)."""

    @property
    def is_nft(self) -> bool:
        """Whether it is known to be iptables-nft."""

    def save(self, table: str) -> str:
        """The text of ``iptables-save``."""

    def list_chain(self, table: str, chain: str) -> list[str] | None:
        """The rules of a chain, None where there is no such chain."""

    def restore(self, text: str, test: bool = False) -> None:
        """Apply a restore text as one transaction, without flushing."""

    def restoring(self, text: str) -> Callable[[], None]:
        """The same, ready to be called."""


class AllTables(Tables, Protocol):
    """What is needed of an address family's iptables to read it at once."""

    def save_all(self) -> str:
        """The text of ``iptables-save`` for all tables that are in use, each behind its name."""


class FamilyPlans(NamedTuple):
    """What each address family needs, and the tables that it is for, by ``ipv4`` and ``ipv6``."""

    plans: Mapping[str, ChainPlan]
    tables: Mapping[str, Tables]

    @property
    def changed(self) -> bool:
        return any(one.changed for one in self.plans.values())

    @property
    def diff(self) -> dict[str, str]:
        """The lines that go and come, under the name of their family's tool."""
        return {
            "before": "".join(
                f"# {COMMANDS[family]}\n{one.before}" for family, one in self.plans.items() if one.before
            ),
            "after": "".join(f"# {COMMANDS[family]}\n{one.after}" for family, one in self.plans.items() if one.after),
        }

    @property
    def transactions(self) -> int:
        """How many tables are changed, each by a transaction of its own."""
        return sum(one.restore.count("\nCOMMIT\n") for one in self.plans.values())

    def test(self) -> None:
        """Let ``iptables-restore --test`` read everything. Raises XtablesError."""
        for family, one in self.plans.items():
            if one.changed:
                self.tables[family].restore(one.restore, test=True)

    def apply(self) -> None:
        """Both families or none. Raises XtablesError, or UndoFailed when the first family could not be put back."""
        run(self.steps())

    def steps(self) -> list[Step]:
        """One step for each family that changes, two where iptables-nft removes all of many chains."""
        return [step for family, one in self.plans.items() if one.changed for step in self._steps(family, one)]

    def _steps(self, family: str, one: ChainPlan) -> list[Step]:
        tables = self.tables[family]

        def undo() -> None:
            tables.restore(one.undo)

        if one.stages is None or not tables.is_nft:
            return [Step(tables.restoring(one.restore), undo)]
        unhooked, removed = one.stages
        return [Step(tables.restoring(unhooked), undo), Step(tables.restoring(removed), lambda: None)]
