# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of session affinity. Pure.

It needs two values at a time where a packet has room for one: the mark of the connection holds the number of the service, then of
the backend, and the mark of the packet that of the backend meanwhile. What others have in them is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..._objects.nftables import (
    Chain,
    HasBits,
    Hook,
    InSet,
    Mapped,
    Match,
    Nat,
    Rule,
    SetField,
    Update,
    Verdict,
    VerdictMap,
)
from ..._objects.nftables_types import number, pack
from . import maps
from .maps import BY_ADDRESS, BY_NODE_PORT, CLUSTER, LOCAL, Front, Pool
from .rule_maker import DSTNAT, IS_LOCAL, RuleMaker, Rules, draws, goto, jump, rule

REMEMBER = "affinity-remember"
"""What stands for the size here is a time in seconds."""
_PROTOCOLS = ("tcp", "udp", "sctp")
_NEW = pack("ct_state", "new")
_ZERO = number(0)


class AffinityChains(RuleMaker):
    """Makes the chains of session affinity of a node in one family."""

    def base_chains(self) -> dict[str, Chain]:
        """Return the chains that the kernel enters right behind the translation, which ends the chain that has made it."""
        rules = tuple(self._end(pool) for pool in (CLUSTER, LOCAL))
        return {f"affinity-{hook}": Chain(rules, Hook("filter", hook, DSTNAT + 1)) for hook in ("prerouting", "output")}

    def fixed(self) -> dict[str, Callable[[], Rules]]:
        """Return the chains that are there once, by their names."""
        found: dict[str, Callable[[], Rules]] = {
            "affinity-begin": self._begin,
            "affinity-end": self._put_back,
            "affinity-translate": self._translate,
            "affinity-external": partial(self._tail, CLUSTER, [rule(self.mark())]),
            "affinity-external-local": self._external_local,
            "affinity-insiders": partial(self._tail, CLUSTER, []),
            "node-port-affinity": partial(self._head, BY_NODE_PORT, "external"),
            "node-port-local-affinity": partial(self._head, BY_NODE_PORT, "external-local"),
        }
        for pool in (CLUSTER, LOCAL):
            found["affinity-choose" + pool.suffix] = partial(self._choose, pool)
            found["affinity-vip" + pool.suffix] = partial(self._tail, pool, self.mark_vip())
        for way in ("vip", "vip-local", "external", "external-local"):
            found[f"{way}-affinity"] = partial(self._head, BY_ADDRESS, way)
        return found

    def sized(self) -> dict[str, Callable[[str, int], Rules]]:
        """Return those that are there for each size, by the name without it. They take what stands before the size, and the size."""
        found: dict[str, Callable[[str, int], Rules]] = {REMEMBER: self._remember}
        for pool in (CLUSTER, LOCAL):
            found["affinity-backends" + pool.suffix] = partial(self._draw, pool)
        return found

    def _end(self, pool: Pool) -> Rule:
        return rule(HasBits("ct state", _NEW), InSet(("ct mark",), pool.members), goto("affinity-end"))

    def _begin(self) -> Rules:
        return [
            rule(Match("meta mark", _ZERO, "!="), Update("add", maps.SAVED_MARKS, ("ct id",), ("meta mark",))),
            rule(Match("ct mark", _ZERO, "!="), Update("add", maps.SAVED_CT_MARKS, ("ct id",), ("ct mark",))),
            rule(SetField("meta mark", _ZERO)),
        ]

    def _put_back(self) -> Rules:
        return [
            rule(SetField("ct mark", _ZERO)),
            rule(SetField("ct mark", Mapped(("ct id",), maps.SAVED_CT_MARKS))),
        ]

    def _head(self, front: Front, tail: str) -> Rules:
        return [
            rule(jump("affinity-begin")),
            rule(SetField("ct mark", Mapped(self.fields.key(front), front.affinity))),
            rule(goto("affinity-" + tail)),
        ]

    def _tail(self, pool: Pool, marks: Sequence[Rule]) -> Rules:
        return [rule(jump("affinity-choose" + pool.suffix)), *marks, rule(goto("affinity-translate"))]

    def _external_local(self) -> Rules:
        return [
            rule(Match("fib saddr type", IS_LOCAL), goto("affinity-external")),
            *self.from_local_sources(goto("affinity-insiders")),
            *self._tail(LOCAL, []),
        ]

    def _choose(self, pool: Pool) -> Rules:
        """The backend that is remembered; or, if there is none or it is gone, one that is drawn.

        What the kernel remembers already it only renews: a backend that is gone is forgotten first.
        """
        key = ("ct mark", self.fields.source)
        remember = VerdictMap(("ct mark",), maps.AFFINITY_TIMEOUTS)
        forget = Update("delete", maps.AFFINITY, key, ("meta mark",))
        return [
            rule(SetField("meta mark", Mapped(key, maps.AFFINITY))),
            rule(InSet(("meta mark",), pool.members), remember),
            rule(Match("meta mark", _ZERO, "!="), forget),
            rule(VerdictMap(("ct mark",), pool.pools)),
        ]

    def _draw(self, pool: Pool, kind: str, size: int) -> Rules:
        remember = VerdictMap(("ct mark",), maps.AFFINITY_TIMEOUTS)
        return [
            rule(SetField("meta mark", Mapped(("ct mark", draw), pool.slots)), remember) for draw in draws(kind, size)
        ]

    def _remember(self, dummy: str, timeout: int) -> Rules:
        """The number of the backend goes from the packet's mark to the connection's."""
        key = ("ct mark", self.fields.source)
        return [
            rule(Update("update", maps.AFFINITY, key, ("meta mark",), timeout * 1000)),
            rule(SetField("ct mark", "meta mark")),
            rule(SetField("meta mark", _ZERO)),
            rule(SetField("meta mark", Mapped(("ct id",), maps.SAVED_MARKS))),
        ]

    def _translate(self) -> Rules:
        """Nft takes a map to an address and port only behind a match of the protocol."""
        to = Nat("dnat", Mapped(("ct mark",), maps.AFFINITY_BACKENDS), True, family=maps.NFT_FAMILIES[self.family])
        by_protocol = [Match("meta l4proto", pack("inet_proto", protocol)) for protocol in _PROTOCOLS]
        return [*(rule(match, to) for match in by_protocol), rule(Verdict("drop"))]
