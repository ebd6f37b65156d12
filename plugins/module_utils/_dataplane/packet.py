# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every dataplane's trace is about: a packet, what takes it, and what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from .._model import addresses as ip

LOOPBACK = {ip.IPV4: "127.0.0.0/8", ip.IPV6: "::1/128"}


class Packet(NamedTuple):
    """The first packet of a connection on its way through a node."""

    source: str
    destination: str
    protocol: str
    port: int
    """The destination's."""
    local_addresses: tuple[str, ...]
    """Those of the node, and of services that are bound on it."""
    mark: int = 0
    dnat: bool = False
    """Whether the destination has been translated."""
    snat: str | Literal[False] = False
    """``masquerade``, or the address that the source is rewritten to."""
    verdict: str = ""
    """``drop`` or ``reject``; empty until it is decided, and for what is accepted."""
    forwarded: str = ""
    """The method by which IPVS has led it to a destination, empty if it has not."""
    tracked: bool = True
    """Whether connection tracking sees it."""

    def is_local(self, address: str) -> bool:
        """Whether the kernel calls an address of this host's type LOCAL."""
        return address in self.local_addresses or ip.contains(LOOPBACK[ip.family_of(address)], address)

    @property
    def states(self) -> list[str]:
        """What the conntrack match calls it."""
        if not self.tracked:
            return ["UNTRACKED"]
        return ["NEW"] + ["DNAT"] * self.dnat + ["SNAT"] * bool(self.snat)


class Step(NamedTuple):
    """A rule, or an element, that takes a packet."""

    table: str
    chain: str
    rule: str
    """Its text, as its tool prints it."""
    chance: Fraction
    """How likely that happens, 0 to 1."""


class Trace(NamedTuple):
    """What becomes of a packet."""

    outcomes: Mapping[Packet, Fraction]
    """The packet as it may end, with the chance of each end; the sum is 1."""
    steps: Sequence[Step]
    """What takes it, in order."""
    affinity: bool = False
    """Whether a client that comes this way is remembered."""
