# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host without a kernel, on which a run can be planned and applied: `interface.Host` with fakes for its facilities."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Facility, Host
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs import presence as ipvs
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter import facilities
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.other_variant import (
    other_families,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.presence import table_names
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.conntrack import NoConntrackError
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Flow
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import ChainKey


class FakeTables:
    """Tables of one address family, that are read as they were filled."""

    is_nft = False

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[str]]] = {"nat": {}, "filter": {}, "mangle": {}, "raw": {}}

    def save(self, table: str) -> str:
        chains = self.tables[table]
        declared = [f":{name} - [0:0]" for name in chains]
        return "\n".join(declared + [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules])

    def save_all(self) -> str:
        return "\n".join(f"*{table}\n{self.save(table)}" for table in self.tables)

    def list_chain(self, table: str, chain: str) -> list[str] | None:
        return self.tables[table].get(chain)

    def restoring(self, text: str) -> Callable[[], None]:
        return lambda: self.restore(text)

    def restore(self, text: str, test: bool = False) -> None:
        """As iptables-restore --noflush does it, for chains alone."""
        assert not test
        table: dict[str, list[str]] = {}
        for line in text.splitlines():
            words = line.split(" ", 2)
            if line.startswith("*"):
                table = self.tables[line[1:]]
            elif line.startswith(":"):
                table[words[0][1:]] = []
            elif words[0] in ("-A", "-I"):
                table.setdefault(words[1], []).append(words[2].replace("1 ", "", 1) if words[0] == "-I" else words[2])
            elif words[0] == "-D":
                table[words[1]].remove(words[2])
            elif words[0] == "-X":
                del table[words[1]]


class FakeTracking:
    """Connection tracking with these flows; without any, a kernel that lacks it."""

    def __init__(self, flows: list[Flow] | None = None) -> None:
        self.held = flows

    def probe(self) -> None:
        if self.held is None:
            raise NoConntrackError("reading it", errno.EINVAL)

    def flows(self, protocols: Iterable[str]) -> list[Flow]:
        self.probe()
        return [flow for flow in self.held or [] if flow.protocol in list(protocols)]

    def delete(self, flow: Flow) -> bool:
        assert self.held is not None
        self.held.remove(flow)
        return True


class FakeRunner:
    """No tool is installed."""

    def find(self, _tool: str) -> str | None:
        return None

    def run(self, argv: Sequence[str], _stdin: str = "") -> tuple[int, str, str]:
        return 1, "", f"{argv[0]}: is not installed"


class _UnknownState:
    """Nothing tells whether rules have changed, so that no cache is kept."""

    is_nft = False

    def now(self) -> str:
        return ""

    def after(self, *_how: Any) -> str:
        return ""


class _NoDevice:
    def state(self) -> None:
        return None


class FakeNode:
    """A host with iptables for IPv4, without ipsets, IPVS or device. facilities: further ones, by the function that opens each."""

    check_mode = False

    def __init__(
        self,
        tracking: FakeTracking | None = None,
        further: Mapping[Callable[[Host], Any], Any] | None = None,
    ) -> None:
        self.runner = FakeRunner()
        self.tracking = tracking or FakeTracking([])
        self.tables = FakeTables()
        self._opened: dict[Callable[[Host], Any], Any] = {
            facilities.tables: {"ipv4": self.tables},
            facilities.sets: facilities.NoSets("none"),
            facilities.chain_presence: self._has_chain,
            facilities.rules_state: _UnknownState(),
            other_families: {},
            ipvs.device: _NoDevice(),
            table_names: set,
            **(further or {}),
        }

    def facility(self, opened: Callable[[Host], Facility]) -> Facility:
        found: Facility = self._opened[opened]
        return found

    def _has_chain(self, keys: Iterable[ChainKey]) -> bool:
        return any(chain in self.tables.tables[table] for table, chain in keys)

    @property
    def chains(self) -> list[str]:
        """Those of ours, in all tables."""
        return [name for chains in self.tables.tables.values() for name in chains if name.startswith("L4-")]
