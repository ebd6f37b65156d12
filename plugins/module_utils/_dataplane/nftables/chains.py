# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of our tables. Pure.

None is of one service: what they are depends on the settings of the node and on how many slots tables of backends have.

    prerouting, output      by address, protocol and port, or by node port, to
      vip-N external-N node-port-N      mark for masquerade, then to backends-N, which translates to one of N slots
      external-local node-port-local    all backends for local sources and the node, those of this node for others
      guarded                           who is in no source range is dropped
      *-affinity                        a backend that is remembered, or one that is drawn, and remembered (affinity_chains.py)
      no-backends                       reject
    postrouting             masquerade what is marked, and what a backend sends to itself
    forward                 drop invalid packets of services
    offload                 hand established connections to a flow table (offload.py)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.nftables import (
    Bits,
    Chain,
    HasBits,
    Hook,
    InNetwork,
    InSet,
    Mapped,
    Masquerade,
    Match,
    Nat,
    Reject,
    Rule,
    SetField,
    Statement,
    Verdict,
    VerdictMap,
)
from ..._objects.nftables_types import number, pack
from . import maps
from .affinity_chains import REMEMBER, AffinityChains
from .maps import FRONTS, Front
from .rule_maker import ALL_BITS, DSTNAT, FILTER, IS_LOCAL, SRCNAT, RuleMaker, Rules, draws, goto, rule

_INVALID = pack("ct_state", "invalid")
_TRANSLATED = HasBits("ct status", pack("ct_status", "dnat"))
_SIZED = re.compile(r"^(.+?)-(weighted-)?(\d+)$")
"""The name of a chain that is there once for each size."""


class ChainMaker(RuleMaker):
    """Makes the chains of a node in one family."""

    def __init__(self, node: Node, family: str) -> None:
        super().__init__(node, family)
        self._affinity = AffinityChains(node, family)
        self._is_ipv4 = family == ip.IPV4
        self._fixed = self._fixed_chains()
        self._sized = self._sized_chains()

    def make(self, name: str) -> Chain | None:
        """Return the chain of this name; None for a name that is none of ours."""
        if name in self._fixed:
            return Chain(tuple(self._fixed[name]()))
        sized = _SIZED.match(name)
        if sized is None or sized[1] not in self._sized or (sized[2] and sized[1] == REMEMBER):
            return None
        return Chain(tuple(self._sized[sized[1]](sized[2] or "", int(sized[3]))))

    def base_chains(self, has_affinity: bool) -> dict[str, Chain]:
        """Return the chains that the kernel enters."""
        made = {
            "prerouting": Chain(tuple(self._dispatch(is_output=False)), Hook("nat", "prerouting", DSTNAT)),
            "output": Chain(tuple(self._dispatch(is_output=True)), Hook("nat", "output", DSTNAT)),
            "postrouting": Chain(tuple(self._postrouting()), Hook("nat", "postrouting", SRCNAT)),
        }
        if self.node.drop_invalid:
            made["forward"] = Chain(tuple(self._forward()), Hook("filter", "forward", FILTER))
        if self.node.localhost_node_ports and self._is_ipv4:
            made["input"] = Chain((self._from_elsewhere_to_localhost(),), Hook("filter", "input", FILTER))
        if has_affinity:
            made.update(self._affinity.base_chains())
        return made

    # base chains

    def _dispatch(self, is_output: bool) -> Rules:
        rules = [rule(VerdictMap(self.fields.service, maps.SERVICES))]
        node_ports = VerdictMap(maps.NODE_PORT_KEY, maps.NODE_PORTS)
        if is_output and self.node.localhost_node_ports and self._is_ipv4:
            rules.append(rule(self._to_localhost(), node_ports))
        # Where none of them is of this family the set is empty: no packet finds the node ports, but they are known to be taken.
        chosen = self.node.node_port_addresses
        within = [InSet((self.fields.destination,), maps.NODE_PORT_ADDRESSES)] if chosen else []
        is_local = Match("fib daddr type", IS_LOCAL)
        return [*rules, rule(is_local, self._to_localhost(inverted=True), *within, node_ports)]

    def _to_localhost(self, inverted: bool = False) -> Statement:
        if self._is_ipv4:
            return InNetwork("ip daddr", pack("ipv4_addr", "127.0.0.0"), 8, inverted)
        return Match("ip6 daddr", pack("ipv6_addr", "::1"), "!=" if inverted else "==")

    def _postrouting(self) -> Rules:
        value, mask = self.node.masquerade_mark
        source, destination = self.fields
        return [
            rule(_TRANSLATED, InSet((source, destination), maps.HAIRPIN), goto("masquerading")),
            rule(Match(Bits("meta mark", number(mask)), number(value)), goto("masquerading")),
        ]

    def _forward(self) -> Rules:
        source, destination = self.fields
        invalid, drop = HasBits("ct state", _INVALID), Verdict("drop")
        return [
            rule(invalid, InSet((source, source), maps.HAIRPIN), drop),
            rule(invalid, InSet((destination,), maps.SERVICE_ADDRESSES), drop),
        ]

    def _from_elsewhere_to_localhost(self) -> Rule:
        """CVE-2020-8558: route_localnet alone would open what listens on localhost to neighbours."""
        return rule(
            Match("iifname", pack("ifname", "lo"), "!="),
            self._to_localhost(),
            HasBits("ct state", pack("ct_state", "established,related"), inverted=True),
            _TRANSLATED._replace(inverted=True),
            Verdict("drop"),
        )

    # chains by their names

    def _fixed_chains(self) -> dict[str, Callable[[], Rules]]:
        found: dict[str, Callable[[], Rules]] = {
            "no-backends": lambda: [rule(Reject(tcp_reset=True)), rule(Reject())],
            "masquerading": self._masquerade,
            "guarded": self._guarded,
            **self._affinity.fixed(),
        }
        for front in FRONTS:
            found[(front.prefix or "external-") + "local"] = partial(self._external_local, front)
        return found

    def _sized_chains(self) -> dict[str, Callable[[str, int], Rules]]:
        """By the name without the size. They take what stands before the size, and the size."""
        found: dict[str, Callable[[str, int], Rules]] = {
            "vip": self._vip,
            "vip-local": self._vip,
            **self._affinity.sized(),
        }
        for front in FRONTS:
            way = front.prefix[:-1] or "external"
            found[way] = partial(self._external, front)
            found[front.prefix + "backends"] = partial(self._choose, front, front.endpoints)
            found[front.prefix + "local-backends"] = partial(self._choose, front, front.local_endpoints)
        return found

    def _masquerade(self) -> Rules:
        """The mark is cleared, so that a packet that comes by twice is not rewritten twice."""
        dummy, mask = self.node.masquerade_mark
        given, flags = self.node.snat_address, ("fully-random",)
        target: Statement = Masquerade(flags)
        if given and ip.family_of(given) == self.family:
            target = Nat("snat", maps.address_bytes(given), flags=flags, family=maps.NFT_FAMILIES[self.family])
        return [rule(SetField("meta mark", Bits("meta mark", number(~mask & ALL_BITS)))), rule(target)]

    def _guarded(self) -> Rules:
        key = self.fields.service
        in_range = InSet((*key, self.fields.source), maps.SOURCE_RANGES)
        return [rule(in_range, VerdictMap(key, maps.GUARDED)), rule(Verdict("drop"))]

    def _vip(self, kind: str, size: int) -> Rules:
        return [*self.mark_vip(), rule(goto(f"backends-{kind}{size}"))]

    def _external(self, front: Front, kind: str, size: int) -> Rules:
        return [rule(self.mark()), rule(goto(f"{front.prefix}backends-{kind}{size}"))]

    def _external_local(self, front: Front) -> Rules:
        key = self.fields.key(front)
        insiders = VerdictMap(key, front.insiders)
        return [
            rule(Match("fib saddr type", IS_LOCAL), self.mark(), insiders),
            *self.from_local_sources(insiders),
            rule(VerdictMap(key, front.outsiders)),
            rule(Verdict("drop")),
        ]

    def _choose(self, front: Front, endpoints: str, kind: str, size: int) -> Rules:
        """Translate to one of the slots."""
        family = maps.NFT_FAMILIES[self.family]
        keys = [(*self.fields.key(front), draw) for draw in draws(kind, size)]
        return [rule(Nat("dnat", Mapped(key, endpoints), port=True, family=family)) for key in keys]
