# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node has besides its services and what may stand in their way, as far as it can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

SERVICE_DEVICE = "l4-ipvs0"
"""The device of ours that has the addresses of services, where a dataplane binds them."""
OWN_DEVICES = (SERVICE_DEVICE, "l4-vxlan0")
"""The devices of ours, whose addresses are none of the node."""
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")


class BaseChain(NamedTuple):
    """A chain of nftables that has a hook. family: inet, ip or ip6; policy: accept or drop; used: whether it has rules."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    used: bool

    @property
    def is_of_iptables(self) -> bool:
        """Whether it is a built-in chain of iptables-nft; nft(8)'s own users write them in small letters."""
        return self.family != "inet" and self.table in _IPTABLES_TABLES and self.name == self.hook.upper()


class NftRule(NamedTuple):
    """verdict: accept, drop, reject, or empty for all else. match: which packets, empty for every packet,
    ``ct status dnat`` for those of connections whose destination was translated, ``other`` for all other conditions.
    """

    verdict: str
    match: str


ChainOfOthers = tuple[BaseChain, Sequence[NftRule]]
"""One that is not of iptables, with its rules."""


class Link(NamedTuple):
    """An interface. kind: bridge, veth and so on; master: the interface that it is a part of; networks: of the addresses of a bridge;
    netfilter: the address families that it, a bridge, hands to iptables by its own setting.
    """

    name: str
    kind: str
    master: str
    networks: tuple[str, ...]
    netfilter: frozenset[str]


class DeviceState(NamedTuple):
    """A device that holds addresses of hosts. kind: ``dummy`` and so on, empty for a physical one."""

    kind: str
    up: bool
    addresses: frozenset[str]


class Listener(NamedTuple):
    """A socket that takes connections, or packets of UDP, of others. process: its name, empty where it is not known."""

    protocol: str
    address: str
    port: int
    inode: int
    process: str = ""


class NodeFacts(NamedTuple):
    """What could not be read is empty, None, or not in its mapping.

    forwarding, bridge_netfilter: whether they are on, by address family. conntrack: entries, and how many there may be.
    strict: interfaces on which rp_filter is strict. uplinks: interfaces that have a default route of IPv4, in whichever
    table; outside: those through which addresses of elsewhere are reached. unreachable: addresses that the node has no
    route to.
    chains: of others. at_input: whether they concern services at hook input, too. listeners: on ports that services take.
    unread: what could not be read, one line each with the reason.
    """

    forwarding: Mapping[str, bool] = {}
    conntrack: tuple[int, int] | None = None
    route_localnet: bool | None = None
    strict: frozenset[str] = frozenset()
    uplinks: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    links: Sequence[Link] = ()
    bridge_netfilter: Mapping[str, bool] = {}
    unreachable: Sequence[str] = ()
    chains: Sequence[ChainOfOthers] = ()
    at_input: bool = False
    listeners: Sequence[Listener] = ()
    unread: Sequence[str] = ()
