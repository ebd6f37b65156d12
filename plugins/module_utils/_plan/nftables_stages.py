# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to nftables that are too many for one transaction, in several. Pure.

What nothing leads to yet is loaded piece by piece; one transaction switches to it; then what nothing leads to any more goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Union

from .._objects.nftables import VERDICT, Elements, types_of
from .._objects.nftables_changes import (
    AddChain,
    AddElements,
    AddFlowtable,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteFlowtable,
    DeleteSet,
    NftChange,
    ReplaceRules,
    TableId,
)
from .._objects.nftables_types import key_size

_MOST_BYTES, _VERDICT_BYTES, _ELEMENT_BYTES = 1000, 80, 180
"""Of a rule or of an object; of the verdict, and of all other parts of an element with a comment beside its key and data."""

_ElementsChange = Union[AddElements, DeleteElements]
_Place = tuple[TableId, str]


def staged(changes: Sequence[NftChange], limit: int) -> list[list[NftChange]]:
    """Return one transaction if it has no more bytes than the limit, or several."""
    if sum(map(_bytes, changes)) <= limit:
        return [list(changes)]
    lost = {(one.table, one.name) for one in changes if isinstance(one, (DeleteSet, DeleteChain, DeleteFlowtable))}
    deleted = {(one.table, one.set): one.elements for one in changes if isinstance(one, DeleteElements)}
    added = {(one.table, one.set): one.elements for one in changes if isinstance(one, AddElements)}
    prepared: list[NftChange] = []
    new: list[_ElementsChange] = []
    switch: list[NftChange] = []
    old: list[_ElementsChange] = []
    for change in changes:
        if isinstance(change, AddElements) and (change.table, change.set) not in lost:
            new.append(_part(change, deleted, False))
            switch.append(_part(change, deleted, True))
        elif isinstance(change, DeleteElements):
            old.append(_part(change, added, False))
            switch.append(_part(change, added, True))
        else:
            (prepared if _is_prepared(change, lost) else switch).append(change)
    before = [piece for change in sorted(new, key=_leads_on) for piece in _pieces(change, limit)]
    after = [piece for change in sorted(old, key=_leads_on, reverse=True) for piece in _pieces(change, limit)]
    switch = [one for one in switch if not isinstance(one, (AddElements, DeleteElements)) or one.elements]
    return [prepared, *before, switch, *after]


def _part(change: _ElementsChange, others: dict[_Place, Elements], is_replaced: bool) -> _ElementsChange:
    """Return the change for those of its keys that the other set of changes has too, or for those that it has not."""
    keys = others.get((change.table, change.set), {})
    elements = {key: element for key, element in change.elements.items() if (key in keys) == is_replaced}
    return change._replace(elements=elements)


def _is_prepared(change: NftChange, lost: set[_Place]) -> bool:
    """Whether this makes something new that no packet meets before the switch."""
    if isinstance(change, AddTable):
        return True
    is_new = isinstance(change, (AddSet, AddChain, AddFlowtable)) and (change.table, change.name) not in lost
    return is_new and not (isinstance(change, AddChain) and change.chain.hook)


def _leads_on(change: _ElementsChange) -> bool:
    """Whether packets are led on by these elements, so that what they find there has to be there before."""
    return change.header.data == (VERDICT,)


def _pieces(change: _ElementsChange, limit: int) -> Iterator[list[NftChange]]:
    """Yield the change in transactions of its own."""
    most = max(1, limit // _element_bytes(change))
    keys = list(change.elements)
    for start in range(0, len(keys), most):
        yield [change._replace(elements={key: change.elements[key] for key in keys[start : start + most]})]


def _bytes(change: NftChange) -> int:
    """Return at least as many bytes as the change takes."""
    if isinstance(change, (AddElements, DeleteElements)):
        return _MOST_BYTES + len(change.elements) * _element_bytes(change)
    return _MOST_BYTES * (1 + len(change.wanted)) if isinstance(change, ReplaceRules) else _MOST_BYTES


def _element_bytes(change: _ElementsChange) -> int:
    header = change.header
    key = key_size(types_of(header.key)) * (2 if "interval" in header.flags else 1)
    data = _VERDICT_BYTES if header.data == (VERDICT,) else key_size(types_of(header.data)) if header.data else 0
    return key + data + _ELEMENT_BYTES
