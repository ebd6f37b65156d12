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
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..._model import addresses as ip
from ..._objects.iptables import ChainKey

PORT_UNREACHABLE = {ip.IPV4: "icmp-port-unreachable", ip.IPV6: "icmp6-port-unreachable"}
"""What REJECT answers to a packet of UDP or SCTP, by address family."""
_ID_LENGTH = 15
"""Characters of a chain's id: 75 bits, and with the longest prefix a name of 28, the most that iptables takes."""
_ID_BYTES = 10
_ID = f"[A-Z2-7]{{{_ID_LENGTH}}}"
"""An id as a regular expression: base 32 (RFC 4648)."""
_LONGEST_NAME = 28
"""Of a chain (``XT_EXTENSION_MAXNAMELEN``)."""
_OWNER = re.compile(r'--comment "([a-z0-9][a-z0-9.-]*): ')


_BYTECODE = {ip.IPV4: (12, 16, 1), ip.IPV6: (8, 24, 4)}
"""Offsets of the source and the destination in the header, in bytes, and their length in words."""


def _same_address(source: int, destination: int, count: int) -> str:
    """A match that compares so many words of 32 bits at two offsets of the network header.

    Classic BPF, as ``nfbpf_compile`` prints it: for each word two loads, a register and a jump; then yes, then no.
    """
    code = []
    for word in range(count):
        at, left = 4 * word, 4 * (count - word)
        code += [f"32 0 0 {source + at}", "7 0 0 0", f"32 0 0 {destination + at}", f"29 0 {left - 3} 0"]
    code += ["6 0 0 1", "6 0 0 0"]
    return f'-m bpf --bytecode "{len(code)},{",".join(code)}"'


SAME_ADDRESS = {family: _same_address(*words) for family, words in _BYTECODE.items()}
"""By address family: whether a packet's source is its destination, of which iptables has no match of its own."""


class Layout:
    """The names of our chains under a prefix."""

    PER_SERVICE = ("SVC", "SVL", "EXT", "FW", "GRP", "SEP")
    SHARED: Sequence[ChainKey] = (
        ("nat", "SERVICES"),
        ("nat", "NODEPORTS"),
        ("nat", "MARK-MASQ"),
        ("nat", "MARK-NONLOCAL"),
        ("nat", "POSTROUTING"),
        ("nat", "HAIRPIN"),
        ("filter", "FIREWALL"),
        ("filter", "NODEPORTS"),
        ("filter", "FORWARD"),
        ("filter", "INVALID"),
        ("filter", "BACKENDS"),
        ("filter", "LOCALHOST"),
    )

    _DISPATCH: Mapping[tuple[str, bool], str] = {
        ("nat", False): "SERVICES",
        ("nat", True): "NODEPORTS",
        ("filter", False): "FIREWALL",
        ("filter", True): "NODEPORTS",
    }
    """The first chain of each dispatch tree, by table and whether it goes by ports alone."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        per_service = rf"{prefix}-({'|'.join(self.PER_SERVICE)})-{_ID}"
        self._per_service = re.compile(per_service)
        self._starts = tuple(f"{prefix}-{kind}-" for kind in self.PER_SERVICE)
        ports = r"(?:tcp|udp|sctp)-\d+-\d+"
        self._branch = re.compile(rf"{prefix}-(?:({ports})|[0-9a-f.]+/\d+|[0-9a-f.]+-{ports}|NET-{_ID})")
        self._affinity_set = re.compile(rf"{prefix}-AFF-{_ID}")
        self._shared = {(table, self.shared(name)) for table, name in self.SHARED}
        self._first = {(table, self.shared(name)) for (table, dummy), name in self._DISPATCH.items()}

    def shared(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def chain_name(self, kind: str, *identity: str) -> str:
        """The chain of one service (``GRP``: of a group of its backends, ``SEP``: of one), or its ipset of clients (``AFF``).

        The id depends on the identity alone.
        """
        digest = hashlib.sha256("\0".join(identity).encode()).digest()[:_ID_BYTES]
        return f"{self.prefix}-{kind}-{base64.b32encode(digest).decode()[:_ID_LENGTH]}"

    def branch(self, name: str) -> str:
        """The chain of one branch of a dispatch tree: the name is a network, ports, or an address and ports.

        It is in the chain's name itself, with dots for colons, as long as it fits.
        """
        chain = self.shared(name.replace(":", "."))
        return chain if len(chain) <= _LONGEST_NAME else self.chain_name("NET", name)

    def dispatch(self, key: ChainKey) -> ChainKey | None:
        """The first chain of the dispatch tree that a chain belongs to; None for a chain of another purpose."""
        table, name = key
        if key in self._first:
            return key
        if name.startswith(self._starts):
            return None
        found = self._branch.fullmatch(name)
        first = self._DISPATCH.get((table, bool(found.group(1)))) if found else None
        return (table, self.shared(first)) if first else None

    def affinity_sets(self, rules: Iterable[str]) -> set[str]:
        """The ipsets of remembered clients that these rules use."""
        return {name for text in rules if "-AFF-" in text for name in self._affinity_set.findall(text)}

    def is_affinity_set(self, name: str) -> bool:
        return bool(self._affinity_set.fullmatch(name))

    def is_of_backend(self, key: ChainKey) -> bool:
        """Whether a chain is of a single backend."""
        return key[1].startswith(self.shared("SEP-"))

    def is_per_service(self, key: ChainKey) -> bool:
        return key[0] == "nat" and bool(self._per_service.fullmatch(key[1]))

    def is_ours(self, key: ChainKey) -> bool:
        """Whether a chain is one that the iptables dataplane makes."""
        return key in self._shared or self.is_per_service(key) or self.dispatch(key) is not None


class ServiceRules(NamedTuple):
    """What one service adds: chains of its own, and its rules in the shared chains."""

    chains: dict[ChainKey, list[str]]
    entries: dict[ChainKey, list[str]]


@lru_cache(maxsize=None)  # a run asks for the same rules several times, and a daemon in each run
def owner_of(rule: str) -> str | None:
    """The service that a rule belongs to; None for the rules that serve all."""
    found = _OWNER.search(rule)
    return found.group(1) if found else None


def rule(
    target: str,
    comment: str,
    *,
    source: str = "",
    destination: str = "",
    interface: str = "",
    protocol: str = "",
    port: int | str = 0,
    match: str = "",
) -> str:
    """A rule specification in the order in which ``iptables-save`` prints its parts. interface: with its option.

    port: one, or a range as ``FIRST:LAST``.
    """
    start = "" if not source or ip.is_everything(source) else f"-s {source} "
    if destination and not ip.is_everything(destination):
        start += f"-d {destination} "
    if interface:
        start += interface + " "
    if protocol:
        start += f"-p {protocol} "
    end = match + " " if match else ""
    if port:
        end = f"-m {protocol} --dport {port} {end}"
    return f'{start}-m comment --comment "{comment}" {end}-j {target}'
