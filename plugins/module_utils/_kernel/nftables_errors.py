# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel refused of a transaction, in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from .._objects.nftables import types_of
from .._objects.nftables_changes import (
    AddChain,
    AddFlowtable,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteFlowtable,
    DeleteSet,
    DeleteTable,
    NftChange,
    ReplaceRules,
)
from .._objects.nftables_rule_text import rule_text
from .._objects.nftables_text import concatenation_text, kind_of
from .._objects.nftables_types import key_size
from .netlink import attributes, each_attribute
from .nftables_messages import ELEMENT_KEY, ELEMENTS, Message
from .nftables_numbers import DATA_VALUE

_REASONS = {
    errno.EPERM: "not permitted: CAP_NET_ADMIN is needed in this network namespace",
    errno.EACCES: "not permitted: CAP_NET_ADMIN is needed in this network namespace",
    errno.ENOENT: "it, or what it names, is not there, or this kernel has no such expression",
    errno.EEXIST: "it is there already",
    errno.EBUSY: "it is in use",
    errno.EMLINK: "chains would lead to each other in a circle, or too deep",
    errno.EOPNOTSUPP: "the kernel cannot do this, or not from this hook",
    errno.ENFILE: "the set is full",
    errno.EMSGSIZE: "the transaction is larger than the send buffer",
    errno.ENOBUFS: "the kernel had more to say than the receive buffer holds",
}
_NETLINK_HEADER_BYTES = 16
_DELETIONS = (DeleteTable, DeleteChain, DeleteSet, DeleteElements, DeleteFlowtable)


def reason(code: int) -> str:
    return _REASONS.get(code) or os.strerror(code)


def describe(messages: Sequence[Message], index: int, code: int, offset: int) -> str:
    """Return one line about the message that was refused. offset: of the attribute at fault in it, 0 if that is not known."""
    message = messages[index]
    doing = "deleting" if isinstance(message.change, _DELETIONS) else "adding"
    first = next(place for place, other in enumerate(messages) if other.change is message.change)
    table = f"table {message.change.table.family} {message.change.table.name}"
    subject = _subject(message.change, message.payload, index - first, offset - _NETLINK_HEADER_BYTES)
    return f"nftables: {doing} {subject + ' of ' if subject else ''}{table}: {_reason(message.change, code)}"


def _reason(change: NftChange, code: int) -> str:
    if isinstance(change, AddFlowtable) and code == errno.ENOENT:
        return f"one of {', '.join(change.flowtable.devices)} is not there, or this kernel has no flow tables (nf_flow_table)"
    return reason(code)


def _subject(change: NftChange, payload: bytes, index: int, offset: int) -> str:
    """Return what a change is about within its table. index: of the message among those of the change."""
    if isinstance(change, (AddTable, DeleteTable)):
        return ""
    if isinstance(change, (AddChain, DeleteChain)):
        return f'chain "{change.name}"'
    if isinstance(change, (AddFlowtable, DeleteFlowtable)):
        return f'flow table "{change.name}"'
    if isinstance(change, ReplaceRules):
        place = index - bool(change.held)
        rule = f'rule "{rule_text(change.wanted[place])}"' if place >= 0 else "rules"
        return f'{rule} of chain "{change.chain}"'
    if isinstance(change, (AddSet, DeleteSet)):
        return f'set or map "{change.name}"'
    key = _key_at(payload, offset)[: key_size(types_of(change.header.key))]
    element = f"element {concatenation_text(types_of(change.header.key), key)}" if key else "elements"
    return f'{element} of {kind_of(change.header)} "{change.set}"'


def _key_at(payload: bytes, offset: int) -> bytes:
    """Return the key of the element in which the attribute at this offset is."""
    place = payload.find(attributes(payload[4:]).get(ELEMENTS, b"")) if offset > 0 else 0
    for dummy, element in each_attribute(payload[place:] if place else b""):
        place += 4 + len(element) + -len(element) % 4
        if offset < place:
            return attributes(attributes(element).get(ELEMENT_KEY, b"")).get(DATA_VALUE, b"")
    return b""
