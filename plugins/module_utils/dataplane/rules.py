# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vocabulary of our iptables chains: their names under a prefix, and rules as text. Pure.

Every rule of a service says so in its comment, ``NAME: ...``: that is how what the kernel holds is given back to
the services that it belongs to. Rules are spelled as ``iptables-save`` prints them, so that equal rules are equal texts.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from .. import addresses as ip
from ..ruleset import ChainKey

_ID_LENGTH = 15
"""Characters of a chain's id: 75 bits, and with the longest prefix a name of 28, the most that iptables takes."""
_ID_BYTES = 10
_OWNER = re.compile(r'--comment "([a-z0-9][a-z0-9.-]*): ')


class Layout:
    """The names of our chains under a prefix."""

    PER_SERVICE = ("SVC", "SVL", "EXT", "FW", "SEP")
    SHARED: Sequence[ChainKey] = (
        ("nat", "SERVICES"),
        ("nat", "NODEPORTS"),
        ("nat", "MARK-MASQ"),
        ("nat", "MARK-NONLOCAL"),
        ("nat", "POSTROUTING"),
        ("filter", "FIREWALL"),
        ("filter", "NODEPORTS"),
        ("filter", "FORWARD"),
        ("filter", "INVALID"),
        ("filter", "BACKENDS"),
    )

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        per_service = r"%s-(%s)-[A-Z2-7]{%d}" % (prefix, "|".join(self.PER_SERVICE), _ID_LENGTH)
        self._per_service = re.compile(per_service)
        self._affinity_set = re.compile(r"%s-AFF-[A-Z2-7]{%d}" % (prefix, _ID_LENGTH))
        self._shared = {(table, self.shared(name)) for table, name in self.SHARED}

    def shared(self, name: str) -> str:
        return "%s-%s" % (self.prefix, name)

    def of(self, kind: str, *identity: str) -> str:
        """The chain of one service (``SEP``: of one backend of it), or its ipset of clients (``AFF``).

        The id depends on the identity alone.
        """
        digest = hashlib.sha256("\0".join(identity).encode()).digest()[:_ID_BYTES]
        return "%s-%s-%s" % (self.prefix, kind, base64.b32encode(digest).decode()[:_ID_LENGTH])

    def affinity_sets(self, rules: Iterable[str]) -> Set[str]:
        """The ipsets of remembered clients that these rules use."""
        return {name for text in rules if "-AFF-" in text for name in self._affinity_set.findall(text)}

    def is_affinity_set(self, name: str) -> bool:
        return bool(self._affinity_set.fullmatch(name))

    def is_per_service(self, key: ChainKey) -> bool:
        return key[0] == "nat" and bool(self._per_service.fullmatch(key[1]))

    def is_ours(self, key: ChainKey) -> bool:
        return key in self._shared or self.is_per_service(key)


class ServiceRules(NamedTuple):
    """What one service adds: chains of its own, and its rules in the shared chains."""

    chains: Dict[ChainKey, List[str]]
    entries: Dict[ChainKey, List[str]]


def owner_of(rule: str) -> Optional[str]:
    """The service that a rule belongs to; None for the rules that serve all."""
    found = _OWNER.search(rule)
    return found.group(1) if found else None


def rule(
    target: str,
    comment: str,
    *,
    source: str = "",
    destination: str = "",
    protocol: str = "",
    port: int = 0,
    match: str = "",
) -> str:
    """A rule specification in the order in which ``iptables-save`` prints its parts."""
    parts = []
    if source and not ip.is_everything(source):
        parts.append("-s " + source)
    if destination and not ip.is_everything(destination):
        parts.append("-d " + destination)
    if protocol:
        parts.append("-p " + protocol)
    parts.append('-m comment --comment "%s"' % comment)
    if port:
        parts.append("-m %s --dport %d" % (protocol, port))
    if match:
        parts.append(match)
    return "%s -j %s" % (" ".join(parts), target)
