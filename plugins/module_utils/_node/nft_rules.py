# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of the roles bridge and backend in our tables of nftables. Pure.

There is no rule that lets anything pass: an accept in one table is no accept in another, and nothing in ours is dropped by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import collapse_addresses, ip_network
from typing import Any

from .._model import addresses as ip
from .._objects.nftables import (
    Chain,
    Element,
    Elements,
    HasBits,
    Hook,
    InNetwork,
    InSet,
    Masquerade,
    Match,
    Rule,
    Set,
    SetHeader,
    Statement,
    Table,
    Verdict,
)
from .._objects.nftables_parts import TABLES
from .._objects.nftables_types import network, pack
from .settings import Bridge, Settings

Tables = dict[str, Table]
"""What a role has, by address family; nothing for a family without any rule."""

_FILTER, _BEHIND_SERVICES = 0, 101
"""Priorities. Services masquerade at 100 (srcnat), where an address to masquerade by may be set."""
_FIELDS = {ip.IPV4: ("ip saddr", "ip daddr"), ip.IPV6: ("ip6 saddr", "ip6 daddr")}
_TYPES = {ip.IPV4: "ipv4_addr", ip.IPV6: "ipv6_addr"}
_MULTICAST = {ip.IPV4: ("224.0.0.0", 4), ip.IPV6: ("ff00::", 8)}
_MASQUERADE = Masquerade(("fully-random",))
_NOTHING = Element()


def bridge_tables(bridges: Sequence[Bridge]) -> Tables:
    """Return what drops the second, untracked copy of frames to a service that a promiscuous bridge hands to the host.

    nftables cannot tell this copy from what is bridged, so that other packets that connection tracking takes for invalid go with it.
    """
    rules = tuple(_drop_invalid(one.name) for one in bridges if one.mode == "promiscuous")
    chain = Chain(rules, Hook("filter", "forward", _FILTER))
    return {family: _table(family, {"bridge-forward": chain}, {}) for family in ip.FAMILIES} if rules else {}


def _drop_invalid(bridge: str) -> Rule:
    name = pack("ifname", bridge)
    statements = (Match("iifname", name), Match("oifname", name), HasBits("ct state", pack("ct_state", "invalid")))
    return Rule((*statements, Verdict("drop")), "copies")


def backend_tables(settings: Settings, backends: Sequence[str]) -> Tables:
    """Return what masquerades the traffic of backends. backends: the addresses of those on this node."""
    cidrs = [ip.canonical_network(cidr) for cidr in settings.all_backend_cidrs] if settings.is_present else []
    local = [*map(ip.canonical_network, settings.local_cidrs), *cidrs]
    families = [family for family in ip.FAMILIES if any(ip.family_of(cidr) == family for cidr in cidrs)]
    return {family: _backend_table(family, cidrs, local, backends) for family in families}


def _backend_table(family: str, cidrs: Sequence[str], local: Sequence[str], backends: Sequence[str]) -> Table:
    source, destination = _FIELDS[family]
    itself: Elements = {2 * pack(_TYPES[family], one): _NOTHING for one in backends if ip.family_of(one) == family}
    address, length = _MULTICAST[family]
    multicast = InNetwork(destination, pack(_TYPES[family], address), length, inverted=True)
    rules = [
        _rule("to itself", InSet((source, destination), "backend-hairpin"), _MASQUERADE),
        _rule("not elsewhere", InSet((destination,), "backend-local-cidrs"), Verdict("return")),
        _rule("to elsewhere", InSet((source,), "backend-cidrs"), multicast, _MASQUERADE),
    ]
    sets = {
        "backend-hairpin": Set(SetHeader((_TYPES[family], _TYPES[family])), itself),
        "backend-local-cidrs": Set(_intervals(family), _networks(family, local)),
        "backend-cidrs": Set(_intervals(family), _networks(family, cidrs)),
    }
    chain = Chain(tuple(rules), Hook("nat", "postrouting", _BEHIND_SERVICES))
    return _table(family, {"backend-postrouting": chain}, sets)


def _rule(comment: str, *statements: Statement) -> Rule:
    return Rule(statements, comment)


def _intervals(family: str) -> SetHeader:
    return SetHeader((_TYPES[family],), flags=("interval",))


def _networks(family: str, cidrs: Sequence[str]) -> Elements:
    """Return networks none of which is in another, which the kernel would refuse."""
    own = [cidr for cidr in cidrs if ip.family_of(cidr) == family]
    found: Any = collapse_addresses(map(ip_network, own))
    return {network(str(one)): _NOTHING for one in found}


def _table(family: str, chains: dict[str, Chain], sets: dict[str, Set]) -> Table:
    return Table(*TABLES[family], sets, chains, {})
