# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node that has IPVS, without a kernel, and services for it."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs import cache, host, presence
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter import facilities
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import NodeRun, plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipset import SetImage
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs_fingerprint import total
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import Entries, Entry, HeldSet
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import HeldService, ServiceKey
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.node_facts import DeviceState
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipset import FakeIpset
from ansible_collections.layer4.service_proxy.tests.unit.fake_ipvs import FakeIpvs
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeNode, FakeTables, FakeTracking

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"], "local_cidrs": ["10.0.0.0/16"]})


class CountingIpvs(FakeIpvs):
    """Tells how often all was read."""

    reads = 0

    def services(self) -> dict[ServiceKey, HeldService]:
        self.reads += 1
        return super().services()

    def apply(self, changes: Sequence[Any]) -> None:
        reads = self.reads
        super().apply(changes)
        self.reads = reads

    def fingerprint(self, keys: Iterable[ServiceKey] | None = None) -> int:
        chosen = self.held if keys is None else [key for key in keys if key in self.held]
        return total([abs(hash((key, repr(self.held[key])))) for key in chosen])

    def users(self, destinations: Collection[tuple[str, str, int]]) -> list[tuple[tuple[str, str, int], ServiceKey]]:
        asked = [(one, key) for one in destinations for key in self.held if key.protocol == one[0]]
        return [(one, key) for one, key in asked if one[1:] in self.held[key].destinations]

    def snapshot(self, keys: Iterable[ServiceKey] | None = None) -> tuple[int, dict[ServiceKey, HeldService]]:
        held = super().services()
        self.reads += keys is None
        keys = None if keys is None else [key for key in keys if key in held]
        return self.fingerprint(keys), held if keys is None else {key: held[key] for key in keys}


class Sets(FakeIpset):
    """With headers and images: of an entry the entry itself."""

    def headers(self) -> dict[str, HeldSet]:
        return dict(self.sets)

    def images(self, names: Iterable[str]) -> dict[str, SetImage]:
        found = {name: self.sets[name] for name in names if name in self.sets}
        return {
            name: SetImage(one.header, frozenset(pickle.dumps(entry) for entry in one.entries.values()))
            for name, one in found.items()
        }

    def select(self, name: str, comments: Iterable[str], addresses: Iterable[str]) -> HeldSet | None:
        """With an entry that nobody has asked for."""
        held = self.sets.get(name)
        if held is None:
            return None
        starts, at = tuple(comments), set(addresses)
        found = {
            element: entry
            for number, (element, entry) in enumerate(held.entries.items())
            if not number or (entry.comment or "").startswith(starts) or not at.isdisjoint(element.split(","))
        }
        return held._replace(entries=found)

    def decode(self, dummy: SetImage, entries: Iterable[bytes]) -> Entries:
        found: list[Entry] = [pickle.loads(entry) for entry in entries]
        return {entry.element: entry for entry in found}


class Device:
    """The device of addresses, in memory."""

    def __init__(self) -> None:
        self.held: set[str] | None = None

    def state(self) -> DeviceState | None:
        return None if self.held is None else DeviceState("dummy", True, frozenset(self.held))

    def create(self) -> None:
        self.held = set()

    def delete(self) -> None:
        self.held = None

    def set_up(self, up: bool) -> None:
        assert up

    def add(self, addresses: Iterable[str]) -> None:
        assert self.held is not None
        self.held |= set(addresses)

    def remove(self, addresses: Iterable[str]) -> None:
        assert self.held is not None
        self.held -= set(addresses)


class Sysctls:
    """All on."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def read(self, name: str) -> int | None:
        return self.values.get(name, 1)

    def write(self, name: str, value: int) -> None:
        self.values[name] = value


class Store:
    """The file, in memory."""

    text = ""

    def load(self) -> str:
        return self.text

    def save(self, text: str) -> None:
        self.text = text

    def forget(self) -> None:
        self.text = ""


class Host(FakeNode):
    """A node that has IPVS."""

    def __init__(self) -> None:
        self.ipvs, self.sets, self.device, self.sysctls, self.store = (
            CountingIpvs({}),
            Sets(),
            Device(),
            Sysctls(),
            Store(),
        )
        self.tables6 = FakeTables()
        further: dict[Any, Any] = {
            host.ipvs: self.ipvs,
            host.sysctls: self.sysctls,
            facilities.sets: self.sets,
            presence.device: self.device,
            cache.store: self.store,
        }
        super().__init__(FakeTracking([]), further)
        further[facilities.tables] = {"ipv4": self.tables, "ipv6": self.tables6}
        self._opened.update(further)

    def run(self, services: list[dict[str, Any]], exclusive: bool = True, state: str = "present") -> NodeRun:
        run = plan_run(Request(state, services, exclusive, "ipvs"), NODE, self)
        dummy = run.diff, run.summary, run.changed
        run.apply()
        run.clean_up()
        return run

    def snapshot(self) -> list[Any]:
        sets = {name: dict(sorted(one.entries.items())) for name, one in sorted(self.sets.sets.items())}
        return [dict(sorted(self.ipvs.held.items())), sets, self.device.held, self.tables.tables, self.tables6.tables]


def service(number: int, **keys: Any) -> dict[str, Any]:
    backends = [{"address": f"10.0.1.{number}"}, {"address": "10.0.2.9", "port": 90}, {"address": f"fd00::{number}"}]
    return {
        "name": f"s{number}",
        "vip": [f"10.96.0.{number}", f"fd96::{number}"],
        "port": 80,
        "backends": backends,
        **keys,
    }


def services(count: int = 4) -> list[dict[str, Any]]:
    return [service(number) for number in range(1, count + 1)]
