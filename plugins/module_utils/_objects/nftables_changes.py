# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to tables of nftables as data. Pure."""

from __future__ import annotations

from typing import NamedTuple, Union

from .nftables import Chain, Elements, Flowtable, Rule, SetHeader


class TableId(NamedTuple):
    family: str
    name: str


class AddTable(NamedTuple):
    """An empty table; one that is there is made to work if it is dormant."""

    table: TableId
    comment: str = ""


class DeleteTable(NamedTuple):
    """A table with all that is in it."""

    table: TableId


class AddChain(NamedTuple):
    """A chain without its rules."""

    table: TableId
    name: str
    chain: Chain  # its rules do not count


class DeleteChain(NamedTuple):
    """A chain without rules to which nothing leads."""

    table: TableId
    name: str


class ReplaceRules(NamedTuple):
    """All rules of a chain that is there."""

    table: TableId
    chain: str
    held: tuple[Rule, ...]
    wanted: tuple[Rule, ...]


class AddSet(NamedTuple):
    """An empty set or map."""

    table: TableId
    name: str
    header: SetHeader


class DeleteSet(NamedTuple):
    """A set or map that no rule names, with its elements."""

    table: TableId
    name: str


class AddElements(NamedTuple):
    """Elements whose keys are not there."""

    table: TableId
    set: str
    header: SetHeader
    elements: Elements


class DeleteElements(NamedTuple):
    """Elements that are there."""

    table: TableId
    set: str
    header: SetHeader
    elements: Elements


class AddFlowtable(NamedTuple):
    table: TableId
    name: str
    flowtable: Flowtable


class DeleteFlowtable(NamedTuple):
    """A flow table that no rule names."""

    table: TableId
    name: str


NftChange = Union[
    AddTable,
    DeleteTable,
    AddChain,
    DeleteChain,
    ReplaceRules,
    AddSet,
    DeleteSet,
    AddElements,
    DeleteElements,
    AddFlowtable,
    DeleteFlowtable,
]


class NftError(Exception):
    """Something about nftables failed; the text is one line."""


class NftRefusedError(NftError):
    """The kernel refused a transaction, of which nothing was done; the text is one line that names what it refused."""


class NftChangedError(NftRefusedError):
    """Somebody changed the ruleset since it was read; nothing was done."""
