# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for the traffic of the backends on a node. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .._model import addresses as ip
from .settings import Settings

_MULTICAST = {ip.IPV4: "224.0.0.0/4", ip.IPV6: "ff00::/8"}
_WHOLE = {ip.IPV4: 32, ip.IPV6: 128}
_LOOP_BACK = '-s {0} -d {0} -m comment --comment "to itself" -j MASQUERADE --random-fully'
_INSIDE = '-d {0} -m comment --comment "not elsewhere" -j RETURN'
_ELSEWHERE = '-s {0} ! -d {1} -m comment --comment "to elsewhere" -j MASQUERADE --random-fully'
_FROM = '-s {0} -m comment --comment "from backends" -j ACCEPT'
_TO = '-d {0} -m comment --comment "to backends" -j ACCEPT'


def chain_requests(settings: Settings, backends: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return the chains, as `nat_chain` takes them, in the spelling of iptables-save.

    backends: the addresses of those on this node; the ipvs dataplane has them in a set, which one rule of its own matches.
    """
    cidrs = [ip.canonical_network(cidr) for cidr in settings.all_backend_cidrs] if settings.is_present else []
    local = [*map(ip.canonical_network, settings.local_cidrs), *cidrs]
    for family in ip.FAMILIES:
        own = [cidr for cidr in cidrs if ip.family_of(cidr) == family]
        inside = dict.fromkeys(cidr for cidr in local if ip.family_of(cidr) == family)
        loop_back = [f"{one}/{_WHOLE[family]}" for one in backends if ip.family_of(one) == family]
        nat = [_LOOP_BACK.format(one) for one in ([] if settings.is_ipvs else loop_back)]
        nat += [_INSIDE.format(one) for one in inside]
        nat += [_ELSEWHERE.format(one, _MULTICAST[family]) for one in own]
        forwarded = [rule.format(one) for rule in (_FROM, _TO) for one in own]
        yield _chain(settings, family, "nat", nat, "POSTROUTING", "last", bool(own))
        yield _chain(settings, family, "filter", forwarded, "FORWARD", "first", bool(own))


def _chain(
    settings: Settings, family: str, table: str, rules: Sequence[str], hook: str, position: str, present: bool
) -> dict[str, Any]:
    comment = f"{settings.chain_prefix} backends"
    return {
        "chain": f"{settings.chain_prefix}-BACKEND",
        "table": table,
        "ip_version": family,
        "rules": list(rules),
        "jumps": [{"from": hook, "match": None, "position": position, "comment": comment}],
        "behind": [*settings.forward_chains, f"{settings.chain_prefix}-BRIDGE"],
        "state": "present" if present else "absent",
    }
