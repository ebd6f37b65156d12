# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facilities that iptables and ipvs use: iptables' tables, and ipsets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Callable, Protocol, TypeVar

from ..._kernel.ipset import Ipset, NoIpsetError, SetImage
from ..._kernel.iptables import NoXtablesError, Xtables
from ..._kernel.iptables_variant import has_chain
from ..._kernel.rules_state import RulesState
from ..._model.service import InvalidServices
from ..._objects.ipset import Entries, Entry, HeldSet, SetHeader
from ..._objects.iptables import COMMANDS, ChainKey, Observed, Rules
from ..._objects.iptables_text import XtablesError
from ..._plan.ipset_steps import SetFacility
from ..interface import Host

Tool = TypeVar("Tool")


class Sets(SetFacility, Protocol):
    """What is needed of the kernel's ipsets (`_kernel.ipset.Ipset`)."""

    def headers(self) -> dict[str, HeldSet]:
        """Return every set by its name, without entries."""

    def select(self, name: str, comments: Iterable[str], addresses: Iterable[str]) -> HeldSet | None:
        """Return a set with those of its entries whose comment begins so, or that have one of these addresses; others may be with them."""

    def images(self, names: Iterable[str]) -> dict[str, SetImage]:
        """Return what these hold, not decoded."""

    def decode(self, image: SetImage, entries: Iterable[bytes]) -> Entries:
        """Return some entries of an image."""


class NoSets:
    """The ipsets of a kernel that has none. why: one line."""

    def __init__(self, why: str) -> None:
        self.why = why

    def headers(self) -> dict[str, HeldSet]:
        """Return nothing."""
        return {}

    def select(self, *_dummy: object) -> HeldSet | None:
        """Return nothing."""
        return None

    def images(self, dummy: Iterable[str]) -> dict[str, SetImage]:
        """Return nothing."""
        return {}

    def decode(self, *_dummy: object) -> Entries:
        """Return nothing."""
        return {}

    def create(self, header: SetHeader) -> None:
        """Raise InvalidServices."""
        raise InvalidServices([f"{header.name} cannot be made: {self.why}"])

    def destroy(self, name: str) -> None:
        """There is none to destroy."""

    def swap(self, name: str, other: str) -> None:
        """There are none to swap."""

    def read(self, dummy: str) -> HeldSet | None:
        """Return nothing."""
        return None

    def add(self, header: SetHeader, entries: Sequence[Entry]) -> None:
        """There is none to add to."""

    def delete(self, header: SetHeader, elements: Sequence[str]) -> None:
        """There is none to delete from."""


def tables(host: Host) -> Mapping[str, Xtables]:
    """Return the tools of both address families. A family's need to be there once it is used."""
    return {family: Xtables(host.runner, family) for family in COMMANDS}


def chain_presence(host: Host) -> Callable[[Iterable[ChainKey]], bool]:
    """Return what tells whether the host has any of some chains, in whichever variant of iptables, and without its tools."""
    tools = [Xtables(host.runner, family) for family in COMMANDS]
    return lambda keys: any(has_chain(tool, *key) for key in keys for tool in tools)


def rules_state(host: Host) -> RulesState:
    """Return what tells whether rules are still those of an earlier moment."""
    return RulesState(host.facility(tables))


def sets(dummy: Host) -> Sets:
    """Return the kernel's ipsets, or `NoSets`."""
    try:
        return Ipset()
    except NoIpsetError as error:
        return NoSets(str(error))


class HeldFamilies(dict[str, Observed]):
    """What each address family holds. One that this host has no means for holds nothing. Raises XtablesError for what cannot be read."""

    def __init__(self, tools: Mapping[str, Tool], read: Callable[[Tool], Observed]) -> None:
        super().__init__()
        self._unreadable: dict[str, XtablesError] = {}
        for family, tool in tools.items():
            try:
                self[family] = read(tool)
            except NoXtablesError as error:
                self._unreadable[family] = error

    def require(self, families: Collection[str]) -> None:
        """Raise XtablesError where one of these could not be read."""
        for family in families:
            if family in self._unreadable:
                raise self._unreadable[family]


def pick(held: Mapping[ChainKey, Rules], ours: Callable[[ChainKey], bool], hooks: Collection[ChainKey]) -> Observed:
    """Return our chains of all that are held, the chains of others in which our jumps may stand, and others of table filter."""
    return Observed(
        {key: rules for key, rules in held.items() if ours(key)},
        {key: rules for key, rules in held.items() if key in hooks},
        {key: rules for key, rules in held.items() if key[0] == "filter" and not ours(key)},
    )
