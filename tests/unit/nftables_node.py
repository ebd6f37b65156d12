# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node without a kernel on which runs of the nftables dataplane follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Summary
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.cache import (
    Record,
    decode,
    encode,
    store,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.dataplane import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.host import (
    TABLES,
    own_tables,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.tables import make_table
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.own_tables import OwnTables
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Table
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_parts import is_of_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import run
from ansible_collections.layer4.service_proxy.tests.unit.fake_nftables import FakeNftables
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeNode

Raw = dict[str, Any]
NFTABLES = Nftables()


def tables(raw: Sequence[Raw], raw_node: Raw) -> dict[str, Table]:
    parsed = parse_node(raw_node)
    compiled = compile_services(parse_services(raw, parsed, NFTABLES.problems), parsed)
    return {family: make_table(found, parsed, family) for family, found in compiled.items()}


class FakeStore:
    """Where runs leave what the next one knows; keeps: whether anything is left."""

    def __init__(self, keeps: bool) -> None:
        self._keeps, self._text = keeps, ""

    def load(self) -> Record | None:
        return decode(self._text)

    def save(self, record: Record) -> None:
        self._text = encode(record) if self._keeps else ""

    def forget(self) -> None:
        self._text = ""


class DigestedTables(OwnTables):
    """Whose digest is their text, since a fake has no dumps."""

    def digest(self) -> tuple[str, int]:
        held, generation = self.read()
        return repr(sorted(held.items())), generation


class Kernel(FakeNode):
    """A host on which runs of the nftables dataplane follow one another."""

    def __init__(self, raw_node: Raw, keeps: bool = True) -> None:
        """keeps: whether a run leaves what the next one knows."""
        self.nft = FakeNftables()
        self.narrowed: list[bool] = []
        """Whether each run has looked only at what differs."""
        tables_of_node = DigestedTables(is_of_services, lambda: self.nft)  # type: ignore[arg-type,return-value]
        super().__init__(further={own_tables: tables_of_node, store: FakeStore(keeps)})
        self.node = parse_node(raw_node)

    def run(self, raw: Sequence[Raw], state: str = "present", exclusive: bool = True) -> Summary:
        request = Request(state, raw, exclusive, "nftables")
        parsed, dummy = request.parse(self.node, NFTABLES.problems)
        observed = NFTABLES.observe(self, self.node, request)
        parsed, dummy = observed.request.parse(self.node, NFTABLES.problems)
        plan = NFTABLES.plan(self, self.node, NFTABLES.compile(parsed, self.node), observed)
        assert plan.changed == any(plan.diff.values())
        self.diff = plan.diff
        self.narrowed.append(observed.request is not request)
        run([*plan.prepare(), *plan.activate(), *plan.retire()])
        return plan.summary

    @property
    def held(self) -> dict[str, Table]:
        found, dummy = self.nft.tables(TABLES.values())
        return {family: found[one] for family, one in TABLES.items() if one in found}
