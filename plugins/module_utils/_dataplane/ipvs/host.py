# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facilities that the ipvs dataplane has beside those of `netfilter.facilities`, and what it finds in all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from ..._kernel import ipvs as kernel
from ..._kernel import sysctl
from ..._kernel.ipset import SetImage
from ..._kernel.ipvs import NoIpvsError
from ..._model.service import Node
from ..._objects.conntrack import Endpoint
from ..._objects.ipset import HeldSet
from ..._objects.iptables import ChainKey, Observed, Rules
from ..._objects.iptables_text import parse_tables
from ..._objects.ipvs import HeldService, ServiceKey, Timeouts
from ..._objects.node_facts import DeviceState
from ..._plan.iptables_steps import AllTables
from ..._plan.ipvs_steps import VirtualServices
from ..interface import Host
from ..netfilter.facilities import HeldFamilies, pick, sets, tables
from .cache import Fingerprint
from .compile import Frontends
from .names import chain_keys, services_chain, set_names
from .ownership import held_frontends
from .plan_settings import SYSCTLS
from .presence import device
from .rules import HOOKS, wanted_chains
from .stages import StagedChains, stage_chains


class Sysctls(Protocol):
    """What is needed of the sysctls (`_kernel.sysctl`)."""

    def read(self, name: str) -> int | None: ...

    def write(self, name: str, value: int) -> None: ...


class Ipvs(VirtualServices, Protocol):
    """What is needed of IPVS (`_kernel.ipvs.Ipvs`)."""

    def services(self) -> dict[ServiceKey, HeldService]: ...

    def users(
        self, destinations: Collection[tuple[str, str, int]], /
    ) -> list[tuple[tuple[str, str, int], ServiceKey]] | None: ...

    def timeouts(self) -> Timeouts: ...

    def set_timeouts(self, timeouts: Timeouts) -> None: ...

    def fingerprint(self, keys: Iterable[ServiceKey] | None = None, /) -> int: ...

    def snapshot(self, keys: Iterable[ServiceKey] | None = None, /) -> tuple[int, dict[ServiceKey, HeldService]]: ...


class NoIpvs:
    """IPVS of a kernel that has none, where something is to be removed."""

    def services(self) -> dict[ServiceKey, HeldService]:
        """Return nothing."""
        return {}

    def apply(self, changes: Sequence[object]) -> None:
        """There is nothing to change."""

    def open_connections(self) -> int:
        """Return 0."""
        return 0

    def connections(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[Endpoint, tuple[int, int]]]:
        """Return nothing of each."""
        return {key: {} for key in keys}

    def fingerprint(self, dummy: Iterable[ServiceKey] | None = None, /) -> int:
        """Return 0."""
        return 0

    def snapshot(self, dummy: Iterable[ServiceKey] | None = None, /) -> tuple[int, dict[ServiceKey, HeldService]]:
        """Return 0 and nothing."""
        return 0, {}

    def users(self, *_dummy: object) -> list[tuple[tuple[str, str, int], ServiceKey]] | None:
        """Return none."""
        return []

    def timeouts(self) -> Timeouts:
        """Return zeros, which leave everything as it is."""
        return Timeouts(0, 0, 0)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """There is nothing to set."""


def sysctls(dummy: Host) -> Sysctls:
    """Return the kernel's settings."""
    return sysctl


def ipvs(dummy: Host) -> Ipvs:
    """Return the kernel's IPVS. Raises NoIpvsError."""
    return kernel.Ipvs()


def ipvs_if_any(host: Host) -> Ipvs:
    """Return the kernel's IPVS, or `NoIpvs`."""
    try:
        return host.facility(ipvs)
    except NoIpvsError:
        return NoIpvs()


class State:
    """What the kernel holds, read when it is asked for first. needs_ipvs: whether a kernel without IPVS is an error."""

    def __init__(self, host: Host, node: Node, needs_ipvs: bool) -> None:
        self._host, self._node = host, node
        self.asked = ""
        """The digest of a request behind which the node has nothing else; empty for other requests."""
        self.services: Sequence[Any] = ()
        """All that are asked for then, as users write them."""
        self.found: Fingerprint | None = None
        """What the node held, read before or with what is planned from; None where no run asks for it."""
        self.untouched: int | None = None
        """What virtual services that the run does not look at add to the fingerprint; None where it looks at all."""
        self.ipvs: Ipvs = host.facility(ipvs) if needs_ipvs else ipvs_if_any(host)

    @cached_property
    def virtual(self) -> Mapping[ServiceKey, HeldService]:
        """All virtual services."""
        return self.ipvs.services()

    @cached_property
    def sets(self) -> Mapping[str, HeldSet]:
        """Those of our names, with entries."""
        facility = self._host.facility(sets)
        names = sorted(set_names(self._node.chain_prefix) & set(facility.headers()))
        return {held.header.name: held for held in filter(None, map(facility.read, names))}

    @cached_property
    def device(self) -> DeviceState | None:
        return self._host.facility(device).state()

    def plan_chains(self, wanted: Frontends) -> dict[str, StagedChains]:
        """Return what changes of the rules, by address family. Raises XtablesError for a family that is needed and cannot be read."""
        chains = wanted_chains(wanted, self._node)
        self.families.require([family for family, one in chains.items() if one.chains])
        services = services_chain(self._node.chain_prefix)
        return {family: stage_chains(held, chains[family], services) for family, held in self.families.items()}

    def fingerprint(self) -> Fingerprint:
        """Return what tells this state from any other. To be called before the state is read."""
        return Fingerprint(self.ipvs.fingerprint(), digest_of_sets(self.images), self._rest())

    def read_with_fingerprint(self) -> Fingerprint:
        """Read the virtual services too, in one go: where the fingerprint is not compared first, this is half the work."""
        before = digest_of_sets(self.images), self._rest()
        number, self.virtual = self.ipvs.snapshot()
        return Fingerprint(number, *before)

    @cached_property
    def images(self) -> Mapping[str, SetImage]:
        """Our sets, not decoded."""
        return self._host.facility(sets).images(sorted(set_names(self._node.chain_prefix)))

    def _rest(self) -> str:
        """Return a digest of all but virtual services and sets."""
        read = self._host.facility(sysctls).read
        parts = [
            self.device and [self.device.kind, self.device.up, sorted(self.device.addresses)],
            [
                [family, *map(_items, (held.chains, held.hooks, held.others))]
                for family, held in sorted(self.families.items())
            ],
            [read(name) for name in SYSCTLS],
            self.ipvs.timeouts(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def answering(self) -> Frontends:
        """Return what answers at the addresses that a run asks for."""
        return self._recorded

    @cached_property
    def _recorded(self) -> Frontends:
        return self.ours({})

    @cached_property
    def families(self) -> HeldFamilies:
        """Our chains by address family."""
        return HeldFamilies(self._host.facility(tables), self._read)

    def _read(self, tool: AllTables) -> Observed:
        return pick(parse_tables(tool.save_all()), chain_keys(self._node.chain_prefix).__contains__, HOOKS)

    def ours(self, wanted: Frontends) -> Frontends:
        """Return what is ours of the virtual services. wanted: those that are where the record of them is lost."""
        addresses: Collection[str] = self.device.addresses if self.device else frozenset()
        entries = {name: held.entries for name, held in self.sets.items()}
        return held_frontends(self.virtual, entries, addresses, wanted, self._node)


def digest_of_sets(images: Mapping[str, SetImage]) -> str:
    """Return what tells these sets from others."""
    found = hashlib.blake2b()
    for name, image in sorted(images.items()):
        found.update(repr((name, image.header, len(image.entries))).encode())
        found.update(b"".join(sorted(image.entries)))
    return found.hexdigest()


def _items(chains: Mapping[ChainKey, Rules]) -> list[Any]:
    return [[*key, list(rules)] for key, rules in sorted(chains.items())]
