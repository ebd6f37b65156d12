# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ipsets and their entries are, and how ``ipset save`` writes them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .._model.messages import one_line

IPV4, IPV6, NO_FAMILY = "ipv4", "ipv6", ""
IPSET_FAMILIES = {IPV4: "inet", IPV6: "inet6"}
"""The words of ipset(8) for the families."""

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
"""The protocols whose port is stored; of all others only the number is, with port 0 (ipset(8), ``proto:port``)."""
ICMP_PROTOCOLS = {"icmp": IPV4, "icmpv6": IPV6}

MAX_NAME = 31
MAX_TIMEOUT = 2147483
"""Seconds; the kernel counts milliseconds in 31 bits."""
MAX_COMMENT = 255
MIN_HASHSIZE, MAX_HASHSIZE = 64, 1 << 28
DEFAULT_HASHSIZE = 1024
DEFAULT_MAXELEM = 65536
ALL_PORTS = (0, 65535)
_REPORTED = 10
"""Problems listed in one error; a list of thousands may be wrong throughout."""


class SetRefusedError(Exception):
    """The kernel refused to change a set. done: how many of the entries that were given had been changed before."""

    done = 0


class SetType(NamedTuple):
    """A type of set. parts: what an element consists of, of ``ip``, ``net``, ``port`` and ``set``.

    revision: of the type in the kernel; the lowest that has timeouts, counters and comments together. A higher one
    would do, but an ipset tool that is older than the kernel then fails on every set.
    null_address: whether the kernel stores 0.0.0.0 and ``::`` as the first part.
    """

    parts: tuple[str, ...]
    revision: int
    null_address: bool = True

    @property
    def has_family(self) -> bool:
        return "ip" in self.parts or "net" in self.parts


SET_TYPES: dict[str, SetType] = {
    "hash:ip": SetType(("ip",), 4, null_address=False),
    "hash:net": SetType(("net",), 6),
    "hash:ip,port": SetType(("ip", "port"), 5, null_address=False),
    "hash:net,port": SetType(("net", "port"), 7),
    "hash:ip,port,ip": SetType(("ip", "port", "ip"), 5),
    "hash:ip,port,net": SetType(("ip", "port", "net"), 7),
    "bitmap:port": SetType(("port",), 3),
    "list:set": SetType(("set",), 3),
}


class Wanted(NamedTuple):
    """A set as it is to be: its header, the entries that it is to have, and whether it is to have no others."""

    header: SetHeader
    entries: Entries
    exclusive: bool


class InvalidSetError(ValueError):
    """What users wrote is refused: one line for each error, in ``problems``."""

    def __init__(self, problems: Sequence[str]) -> None:
        shown = list(map(one_line, problems[:_REPORTED]))
        if len(problems) > _REPORTED:
            shown.append(f"and {len(problems) - _REPORTED} more")
        super().__init__("\n".join(shown))
        self.problems = list(problems)


def is_hash(type_name: str) -> bool:
    return type_name.startswith("hash:")


class Entry(NamedTuple):
    """An element of a set with what is kept beside it.

    element: in the spelling of ``ipset save``, ``10.0.0.1,tcp:8080``. timeout: seconds until it goes, 0 for never;
    None: the set has no timeouts, or (of an entry to add) the set's own timeout. comment, packets, bytes:
    None where the set has none, or where they are not given. nomatch: an exception from the networks around it.
    """

    element: str
    timeout: int | None = None
    comment: str | None = None
    packets: int | None = None
    bytes: int | None = None
    nomatch: bool = False


Entries = dict[str, Entry]
"""Entries by their element."""


@dataclass(frozen=True)
class SetHeader:
    """A set without its entries: what ``ipset create`` takes.

    timeout: default of the entries in seconds, 0 for never, None where entries have no timeouts. ports: first and last
    of a bitmap:port. bucketsize, forceadd: kept where the kernel reports them.
    """

    name: str
    type: str
    family: str = NO_FAMILY
    timeout: int | None = None
    counters: bool = False
    comment: bool = False
    hashsize: int | None = None
    maxelem: int | None = None
    ports: tuple[int, int] | None = None
    bucketsize: int | None = None
    forceadd: bool = False
    revision: int | None = field(default=None, compare=False)


class HeldSet(NamedTuple):
    """A set that the kernel holds. references: how many rules and sets use it.

    extensions: words of ipset(8) for what the set has and this collection does not know how to keep.
    """

    header: SetHeader
    references: int
    extensions: tuple[str, ...]
    entries: Entries


def create_line(header: SetHeader) -> str:
    """The set as ``ipset save`` writes it, but for ``initval``, which the kernel draws at random, and a list's ``size``, ignored."""
    words = ["create", header.name, header.type]
    if header.family:
        words += ["family", IPSET_FAMILIES[header.family]]
    for word in ("hashsize", "maxelem"):
        if getattr(header, word) is not None:
            words += [word, str(getattr(header, word))]
    if header.ports is not None:
        words += ["range", "-".join(map(str, header.ports))]
    if header.timeout is not None:
        words += ["timeout", str(header.timeout)]
    words += [word for word in ("counters", "comment", "forceadd") if getattr(header, word)]
    if header.bucketsize is not None:
        words += ["bucketsize", str(header.bucketsize)]
    return " ".join(words)


def add_line(name: str, entry: Entry) -> str:
    """The entry as ``ipset save`` writes it."""
    words: list[str] = ["add", name, entry.element]
    if entry.timeout is not None:
        words += ["timeout", str(entry.timeout)]
    if entry.nomatch:
        words.append("nomatch")
    for word, value in (("packets", entry.packets), ("bytes", entry.bytes)):
        if value is not None:
            words += [word, str(value)]
    if entry.comment:
        words.append(f'comment "{entry.comment}"')
    return " ".join(words)
