# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of nftables that are hooked into the kernel, and their rules as far as they decide on all packets; and whether
chains and rules are still what they were.

Over netlink (``nf_tables.h``): nft(8) takes seconds to list tables as large as those of iptables-nft.
Everything that can fail raises NftError.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import sys
from collections.abc import Iterator, Sequence

from .._objects.iptables_words import BUILT_IN_CHAINS
from .._objects.node_facts import BaseChain, NftRule
from .netlink import NLA_F_NESTED, NetlinkError, NetlinkSocket, attribute, attributes, each_attribute

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE = 1, 4, 7
_TABLE_NAME = 1
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_NUMBERS = {name: number for number, name in _FAMILIES.items()}
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_USE = 1, 3, 4, 5, 6
_HOOK_NUMBER = 1
_HOOKED = struct.pack("=HH", 20, _CHAIN_HOOK)
"""How the number and priority of a hook begin; a host has tens of thousands of chains without."""
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_FIELDS = 1, 2
_IMMEDIATE_VALUE, _DATA_VERDICT, _VERDICT_CODE = 2, 2, 1
_CT_KEY, _CT_STATUS = 2, struct.pack("!I", 2)
_BITWISE_MASK, _DATA_VALUE = 4, 1
_COMPARE_OPERATOR, _COMPARE_NOT_EQUAL = 2, struct.pack("!I", 1)
_STATUS_DNAT = 1 << 5
"""IPS_DST_NAT (``nf_conntrack_common.h``)."""
_VERDICTS = {0: "drop", 1: "accept"}
_NO_CONDITION = ("counter", "log")
_OF_CHAINS = (_CHAIN_TABLE, _CHAIN_NAME)
_OF_RULES = (_RULE_EXPRESSIONS,)
"""What tells chains, and rules, from others; the rest are handles, which are new for the same rule set again."""
_COUNTER = struct.pack("=HH", 12, _EXPRESSION_NAME) + b"counter\0"
_COUNTED_BYTES = 28
"""Behind it: two numbers of 64 bits with the headers of their attributes."""


class NftError(Exception):
    """The chains could not be read; the text is one line with the system's words."""


class NoNftError(NftError):
    """The kernel has no nftables."""


_NONE = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
"""What kernels answer for a part of netfilter that they have not."""


class Nft:
    """The tables of this network namespace."""

    def __enter__(self) -> Nft:
        try:
            self._netlink = NetlinkSocket(_NETLINK_NETFILTER)
        except OSError as error:
            raise _unreadable(error.errno or errno.EIO) from error
        return self

    def __exit__(self, *dummy: object) -> None:
        self._netlink.close()

    def tables(self) -> set[tuple[str, str]]:
        """Return family and name of those of the families inet, ip and ip6."""
        found = self._dump(_GET_TABLE, 0, b"")
        return {(_FAMILIES[one[0]], _text(attributes(one[4:])[_TABLE_NAME])) for one in found if one[0] in _FAMILIES}

    def base_chains(self) -> list[BaseChain]:
        """Those of the families inet, ip and ip6."""
        return [chain for chain in map(_base_chain, self._dump(_GET_CHAIN, 0, b"", _HOOKED)) if chain]

    def rules(self, chain: BaseChain) -> list[NftRule]:
        """The rules of a chain, in order."""
        table, name = (text.encode() + b"\0" for text in (chain.table, chain.name))
        return [_rule(message) for message in self._rules_of(chain.family, table, name)]

    def digest(self, marked: str) -> str:
        """Of the chains of iptables with this text in their names, of their rules, of the rules with it in the built-in chains, and of
        all rules in those of table filter: others may put theirs in front of ours.

        It does not depend on traffic, nor on what else there is. A chain at a time: for each part of the rules of a table the kernel
        goes through all those before it, which takes seconds where there are a hundred thousand.
        """
        found = hashlib.blake2b(digest_size=16)
        for family in ("ip", "ip6"):
            parts = list(_telling(self._dump(_GET_CHAIN, _NUMBERS[family], b"", marked.encode()), _OF_CHAINS))
            chains = [(table[4:], name[4:], b"") for table, name in zip(parts[::2], parts[1::2])]
            built_in = [
                (table.encode() + b"\0", name.encode() + b"\0")
                for table in BUILT_IN_CHAINS
                for name in BUILT_IN_CHAINS[table]
            ]
            chains += [(*one, b"" if one[0] == b"filter\0" else marked.encode()) for one in built_in]
            for table, name, text in chains:
                found.update(table + name)
                for part in _telling(self._rules_of(family, table, name, text), _OF_RULES):
                    found.update(part)
        return found.hexdigest()

    def request(self, kind: int, family: int, payload: bytes) -> list[bytes]:
        """Return the answers to a question for one object; none where there is no such object."""
        try:
            return list(self._netlink.request(_SUBSYSTEM | kind, 0, struct.pack("!BBH", family, 0, 0) + payload))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return []
            raise _unreadable(error.code) from error
        except OSError as error:
            raise _unreadable(error.errno or errno.EIO) from error

    def _rules_of(self, family: str, table: bytes, chain: bytes, containing: bytes = b"") -> list[bytes]:
        """The rules of a chain that contain these bytes; names as attributes have them, with a zero byte."""
        wanted = attribute(_RULE_TABLE, table) + attribute(_RULE_CHAIN, chain)
        return self._dump(_GET_RULE, _NUMBERS[family], wanted, containing)

    def _dump(self, kind: int, family: int, payload: bytes, containing: bytes = b"") -> list[bytes]:
        header = struct.pack("!BBH", family, 0, 0)
        try:
            return self._netlink.dump(_SUBSYSTEM | kind, header + payload, containing)
        except NetlinkError as error:
            raise _unreadable(error.code) from error


def _unreadable(code: int) -> NftError:
    kind = NoNftError if code in _NONE else NftError
    return kind(f"nftables cannot be read over netlink: {os.strerror(code)}")


def has_chain(family: str, table: str, chain: str) -> bool:
    """Tell whether there is a chain of this name, without a look at others. family: ip, ip6 or inet. Raises NftError."""
    names = attribute(_CHAIN_TABLE, table.encode() + b"\0") + attribute(_CHAIN_NAME, chain.encode() + b"\0")
    try:
        with Nft() as nft:
            return bool(nft.request(_GET_CHAIN, _NUMBERS[family], names))
    except NoNftError:
        return False


def _telling(messages: list[bytes], kinds: Sequence[int]) -> Iterator[bytes]:
    """The attributes of these kinds, without what counts packets."""
    header = struct.Struct("=HH").unpack_from
    for message in messages:
        offset, end = 4, len(message)
        while offset < end:
            length, kind = header(message, offset)
            if kind & ~NLA_F_NESTED in kinds:
                part = message[offset : offset + length]
                at = part.find(_COUNTER)
                if at >= 0:
                    at += len(_COUNTER)
                    yield part[:at]
                    part = part[at + _COUNTED_BYTES :]
                yield part
            offset += (length + 3) & ~3


def _base_chain(message: bytes) -> BaseChain | None:
    if message[0] not in _FAMILIES:
        return None
    fields = attributes(message[4:])
    if _CHAIN_HOOK not in fields:
        return None
    hook = _number(attributes(fields[_CHAIN_HOOK])[_HOOK_NUMBER])
    return BaseChain(
        _FAMILIES[message[0]],
        _text(fields[_CHAIN_TABLE]),
        _text(fields[_CHAIN_NAME]),
        _HOOKS.get(hook, ""),
        _VERDICTS[_number(fields[_CHAIN_POLICY])],
        _number(fields[_CHAIN_USE]) > 0,
    )


def _rule(message: bytes) -> NftRule:
    verdict, conditions = "", []
    for name, fields in _expressions(attributes(message[4:]).get(_RULE_EXPRESSIONS, b"")):
        if name == "reject":
            verdict = "reject"
        elif name == "immediate":
            verdict = _immediate(fields)
        elif name not in _NO_CONDITION:
            conditions.append((name, fields))
    if _is_translated(conditions):
        return NftRule(verdict, "ct status dnat")
    return NftRule(verdict, "other" if conditions else "")


def _expressions(payload: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    """The name and the attributes of each."""
    for _kind, element in each_attribute(payload):
        parts = attributes(element)
        yield _text(parts[_EXPRESSION_NAME]), attributes(parts.get(_EXPRESSION_FIELDS, b""))


def _immediate(fields: dict[int, bytes]) -> str:
    verdict = attributes(attributes(fields.get(_IMMEDIATE_VALUE, b"")).get(_DATA_VERDICT, b""))
    return _VERDICTS.get(_number(verdict[_VERDICT_CODE]), "") if verdict else ""


def _is_translated(conditions: Sequence[tuple[str, dict[int, bytes]]]) -> bool:
    """Whether this is how nft(8) writes ``ct status dnat``: the bits, masked, are not equal to none."""
    if [name for name, _fields in conditions] != ["ct", "bitwise", "cmp"]:
        return False
    (_ct, status), (_bitwise, bits), (_cmp, comparison) = conditions
    mask = attributes(bits.get(_BITWISE_MASK, b"")).get(_DATA_VALUE, b"")
    return (
        status.get(_CT_KEY) == _CT_STATUS
        and bool(int.from_bytes(mask, sys.byteorder) & _STATUS_DNAT)
        and comparison.get(_COMPARE_OPERATOR) == _COMPARE_NOT_EQUAL
    )


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")
