# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of our tables. Pure.

None is of one service: what they are depends on the settings of the node and on how many slots tables of backends have.

    prerouting, output      by address, protocol and port, or by node port, to
      vip-N external-N node-port-N      mark for masquerade, then to backends-N, which translates to one of N slots
      external-local node-port-local    all backends for local sources and the node, those of this node for others
      guarded                           who is in no source range is dropped
      *-affinity                        a backend that is remembered, or one that is drawn, and remembered
      no-backends                       reject
    postrouting             masquerade what is marked, and what a backend sends to itself
    forward                 drop invalid packets of services

Session affinity needs two values at a time where a packet has room for one: the mark of the connection holds the number of the
service, then of the backend, and the mark of the packet that of the backend meanwhile. What others have in them is put back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
    Numgen,
    Reject,
    Rule,
    SetField,
    Statement,
    Update,
    Verdict,
    VerdictMap,
)
from ..._objects.nftables_types import number, pack
from . import maps
from .maps import BY_ADDRESS, BY_NODE_PORT, CLUSTER, FRONTS, LOCAL, Front, Pool
from .slots import TABLES

DSTNAT, FILTER, SRCNAT = -100, 0, 100
"""Priorities of hooks."""
_ALL_BITS = 0xFFFFFFFF
_PROTOCOLS = ("tcp", "udp", "sctp")
_IS_LOCAL = pack("fib_addrtype", "local")
_NEW, _INVALID = pack("ct_state", "new"), pack("ct_state", "invalid")
_TRANSLATED = HasBits("ct status", pack("ct_status", "dnat"))
_ZERO = number(0)
_SIZED = re.compile(r"^(.+?)-(weighted-)?(\d+)$")
"""The name of a chain that is there once for each size."""

Rules = list[Rule]


def _goto(chain: str) -> Verdict:
    return Verdict("goto", chain)


def _jump(chain: str) -> Verdict:
    return Verdict("jump", chain)


def _rule(*statements: Statement) -> Rule:
    return Rule(statements)


class ChainMaker:
    """Makes the chains of a node in one family."""

    def __init__(self, node: Node, family: str) -> None:
        self.node, self.family = node, family
        self.fields = maps.FIELDS[family]
        self._is_ipv4 = family == ip.IPV4
        self._fixed = self._fixed_chains()
        self._sized = self._sized_chains()

    def make(self, name: str) -> Chain | None:
        """Return the chain of this name; None for a name that is none of ours."""
        if name in self._fixed:
            return Chain(tuple(self._fixed[name]()))
        sized = _SIZED.match(name)
        if sized is None or sized[1] not in self._sized or (sized[2] and sized[1] == "affinity-remember"):
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
            # Right behind the translation, which ends the chain that has made it.
            for hook in ("prerouting", "output"):
                rules = tuple(self._affinity_end(pool) for pool in (CLUSTER, LOCAL))
                made[f"affinity-{hook}"] = Chain(rules, Hook("filter", hook, DSTNAT + 1))
        return made

    # base chains

    def _dispatch(self, is_output: bool) -> Rules:
        rules = [_rule(VerdictMap(self.fields.service, maps.SERVICES))]
        node_ports = VerdictMap(maps.NODE_PORT_KEY, maps.NODE_PORTS)
        if is_output and self.node.localhost_node_ports and self._is_ipv4:
            rules.append(_rule(self._to_localhost(), node_ports))
        # Where none of them is of this family the set is empty: no packet finds the node ports, but they are known to be taken.
        chosen = self.node.node_port_addresses
        within = [InSet((self.fields.destination,), maps.NODE_PORT_ADDRESSES)] if chosen else []
        is_local = Match("fib daddr type", _IS_LOCAL)
        return [*rules, _rule(is_local, self._to_localhost(inverted=True), *within, node_ports)]

    def _to_localhost(self, inverted: bool = False) -> Statement:
        if self._is_ipv4:
            return InNetwork("ip daddr", pack("ipv4_addr", "127.0.0.0"), 8, inverted)
        return Match("ip6 daddr", pack("ipv6_addr", "::1"), "!=" if inverted else "==")

    def _postrouting(self) -> Rules:
        value, mask = self.node.masquerade_mark
        source, destination = self.fields
        return [
            _rule(_TRANSLATED, InSet((source, destination), maps.HAIRPIN), _goto("masquerading")),
            _rule(Match(Bits("meta mark", number(mask)), number(value)), _goto("masquerading")),
        ]

    def _forward(self) -> Rules:
        source, destination = self.fields
        invalid, drop = HasBits("ct state", _INVALID), Verdict("drop")
        return [
            _rule(invalid, InSet((source, source), maps.HAIRPIN), drop),
            _rule(invalid, InSet((destination,), maps.SERVICE_ADDRESSES), drop),
        ]

    def _from_elsewhere_to_localhost(self) -> Rule:
        """CVE-2020-8558: route_localnet alone would open what listens on localhost to neighbours."""
        return _rule(
            Match("iifname", pack("ifname", "lo"), "!="),
            self._to_localhost(),
            HasBits("ct state", pack("ct_state", "established,related"), inverted=True),
            _TRANSLATED._replace(inverted=True),
            Verdict("drop"),
        )

    def _affinity_end(self, pool: Pool) -> Rule:
        return _rule(HasBits("ct state", _NEW), InSet(("ct mark",), pool.members), _goto("affinity-end"))

    # chains by their names

    def _fixed_chains(self) -> dict[str, Callable[[], Rules]]:
        found: dict[str, Callable[[], Rules]] = {
            "no-backends": lambda: [_rule(Reject(tcp_reset=True)), _rule(Reject())],
            "masquerading": self._masquerade,
            "guarded": self._guarded,
            "affinity-begin": self._affinity_begin,
            "affinity-end": lambda: [
                _rule(SetField("ct mark", _ZERO)),
                _rule(SetField("ct mark", Mapped(("ct id",), maps.SAVED_CT_MARKS))),
            ],
            "affinity-translate": self._affinity_translate,
            "affinity-external-local": self._affinity_external_local,
        }
        for pool in (CLUSTER, LOCAL):
            found["affinity-choose" + pool.suffix] = partial(self._affinity_choose, pool)
            found["affinity-vip" + pool.suffix] = partial(self._affinity_tail, pool, self._mark_vip())
        found["affinity-external"] = partial(self._affinity_tail, CLUSTER, [_rule(self._mark())])
        found["affinity-insiders"] = partial(self._affinity_tail, CLUSTER, [])
        ways = {"vip-affinity": "vip", "vip-local-affinity": "vip-local"}
        ways.update({"external-affinity": "external", "external-local-affinity": "external-local"})
        for way, tail in ways.items():
            found[way] = partial(self._affinity_head, BY_ADDRESS, tail)
        found["node-port-affinity"] = partial(self._affinity_head, BY_NODE_PORT, "external")
        found["node-port-local-affinity"] = partial(self._affinity_head, BY_NODE_PORT, "external-local")
        for front in FRONTS:
            found[(front.prefix or "external-") + "local"] = partial(self._external_local, front)
        return found

    def _sized_chains(self) -> dict[str, Callable[[str, int], Rules]]:
        """By the name without the size. They take what stands before the size, and the size."""
        found: dict[str, Callable[[str, int], Rules]] = {
            "vip": self._vip,
            "vip-local": self._vip,
            "affinity-remember": self._affinity_remember,
        }
        for front in FRONTS:
            way = front.prefix[:-1] or "external"
            found[way] = partial(self._external, front)
            found[front.prefix + "backends"] = partial(self._choose, front, front.endpoints)
            found[front.prefix + "local-backends"] = partial(self._choose, front, front.local_endpoints)
        for pool in (CLUSTER, LOCAL):
            found["affinity-backends" + pool.suffix] = partial(self._affinity_draw, pool)
        return found

    def _mark(self) -> Statement:
        value, mask = self.node.masquerade_mark
        return SetField("meta mark", Bits("meta mark", number(~mask & _ALL_BITS), number(value)))

    def _mark_vip(self) -> Rules:
        if self.node.masquerade_all:
            return [_rule(self._mark())]
        if not any(ip.family_of(cidr) == self.family for cidr in self.node.local_cidrs):
            return []
        return [_rule(InSet((self.fields.source,), maps.LOCAL_SOURCES, inverted=True), self._mark())]

    def _masquerade(self) -> Rules:
        """The mark is cleared, so that a packet that comes by twice is not rewritten twice."""
        dummy, mask = self.node.masquerade_mark
        given, flags = self.node.snat_address, ("fully-random",)
        target: Statement = Masquerade(flags)
        if given and ip.family_of(given) == self.family:
            target = Nat("snat", maps.address_bytes(given), flags=flags, family=maps.NFT_FAMILIES[self.family])
        return [_rule(SetField("meta mark", Bits("meta mark", number(~mask & _ALL_BITS)))), _rule(target)]

    def _guarded(self) -> Rules:
        key = self.fields.service
        in_range = InSet((*key, self.fields.source), maps.SOURCE_RANGES)
        return [_rule(in_range, VerdictMap(key, maps.GUARDED)), _rule(Verdict("drop"))]

    def _vip(self, kind: str, size: int) -> Rules:
        return [*self._mark_vip(), _rule(_goto(f"backends-{kind}{size}"))]

    def _external(self, front: Front, kind: str, size: int) -> Rules:
        return [_rule(self._mark()), _rule(_goto(f"{front.prefix}backends-{kind}{size}"))]

    def _external_local(self, front: Front) -> Rules:
        key = self.fields.key(front)
        insiders = VerdictMap(key, front.insiders)
        return [
            _rule(Match("fib saddr type", _IS_LOCAL), self._mark(), insiders),
            *self._from_local_sources(insiders),
            _rule(VerdictMap(key, front.outsiders)),
            _rule(Verdict("drop")),
        ]

    def _from_local_sources(self, *statements: Statement) -> Rules:
        if not any(ip.family_of(cidr) == self.family for cidr in self.node.local_cidrs):
            return []
        return [_rule(InSet((self.fields.source,), maps.LOCAL_SOURCES), *statements)]

    def _choose(self, front: Front, endpoints: str, kind: str, size: int) -> Rules:
        """Translate to one of the slots. The last rule is for those who meet a table while it is replaced by a smaller one."""
        family = maps.NFT_FAMILIES[self.family]
        draws = [*_draws(kind, size), Numgen("random", 1)]
        keys = [(*self.fields.key(front), draw) for draw in draws]
        return [_rule(Nat("dnat", Mapped(key, endpoints), port=True, family=family)) for key in keys]

    # session affinity

    def _affinity_begin(self) -> Rules:
        return [
            _rule(Match("meta mark", _ZERO, "!="), Update("add", maps.SAVED_MARKS, ("ct id",), ("meta mark",))),
            _rule(Match("ct mark", _ZERO, "!="), Update("add", maps.SAVED_CT_MARKS, ("ct id",), ("ct mark",))),
            _rule(SetField("meta mark", _ZERO)),
        ]

    def _affinity_head(self, front: Front, tail: str) -> Rules:
        return [
            _rule(_jump("affinity-begin")),
            _rule(SetField("ct mark", Mapped(self.fields.key(front), front.affinity))),
            _rule(_goto("affinity-" + tail)),
        ]

    def _affinity_tail(self, pool: Pool, marks: Sequence[Rule]) -> Rules:
        return [_rule(_jump("affinity-choose" + pool.suffix)), *marks, _rule(_goto("affinity-translate"))]

    def _affinity_external_local(self) -> Rules:
        return [
            _rule(Match("fib saddr type", _IS_LOCAL), _goto("affinity-external")),
            *self._from_local_sources(_goto("affinity-insiders")),
            *self._affinity_tail(LOCAL, []),
        ]

    def _affinity_choose(self, pool: Pool) -> Rules:
        """The backend that is remembered; or, if there is none or it is gone, one that is drawn.

        What the kernel remembers already it only renews: a backend that is gone is forgotten first.
        """
        key = ("ct mark", self.fields.source)
        remember = VerdictMap(("ct mark",), maps.AFFINITY_TIMEOUTS)
        forget = Update("delete", maps.AFFINITY, key, ("meta mark",))
        return [
            _rule(SetField("meta mark", Mapped(key, maps.AFFINITY))),
            _rule(InSet(("meta mark",), pool.members), remember),
            _rule(Match("meta mark", _ZERO, "!="), forget),
            _rule(VerdictMap(("ct mark",), pool.pools)),
        ]

    def _affinity_draw(self, pool: Pool, kind: str, size: int) -> Rules:
        remember = VerdictMap(("ct mark",), maps.AFFINITY_TIMEOUTS)
        return [
            _rule(SetField("meta mark", Mapped(("ct mark", draw), pool.slots)), remember)
            for draw in [*_draws(kind, size), Numgen("random", 1)]
        ]

    def _affinity_remember(self, dummy: str, timeout: int) -> Rules:
        """The number of the backend goes from the packet's mark to the connection's."""
        key = ("ct mark", self.fields.source)
        return [
            _rule(Update("update", maps.AFFINITY, key, ("meta mark",), timeout * 1000)),
            _rule(SetField("ct mark", "meta mark")),
            _rule(SetField("meta mark", _ZERO)),
            _rule(SetField("meta mark", Mapped(("ct id",), maps.SAVED_MARKS))),
        ]

    def _affinity_translate(self) -> Rules:
        """Nft takes a map to an address and port only behind a match of the protocol."""
        to = Nat("dnat", Mapped(("ct mark",), maps.AFFINITY_BACKENDS), True, family=maps.NFT_FAMILIES[self.family])
        by_protocol = [Match("meta l4proto", pack("inet_proto", protocol)) for protocol in _PROTOCOLS]
        return [*(_rule(match, to) for match in by_protocol), _rule(Verdict("drop"))]


def _draws(kind: str, size: int) -> list[Numgen]:
    return [Numgen("random", size, table * size) for table in range(TABLES if kind else 1)]
