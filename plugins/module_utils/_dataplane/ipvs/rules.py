# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of the ipvs dataplane: as many for one service as for thousands, since they match ipsets. Pure.

A packet to a virtual service comes in by INPUT, is led to its destination by IPVS, and leaves by OUTPUT and POSTROUTING; one
that the node itself sends never sees INPUT, and IPVS has it before the filter table's OUTPUT does.
"""

from __future__ import annotations

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.iptables import ChainKey, Desired, Jump
from ..netfilter.masquerade import masquerade_chains
from ..netfilter.names import PORT_UNREACHABLE, Layout, rule
from .compile import Frontends
from .names import NAT, SetNames, services_chain
from .sets import is_one_way

_ECHO = {ip.IPV4: "icmp", ip.IPV6: "ipv6-icmp"}
_ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED"
_INVALID = "-m conntrack --ctstate INVALID"
_NEW = "-m conntrack --ctstate NEW"
_UNTRACKED = "-m conntrack --ctstate UNTRACKED"
HOOKS: frozenset[ChainKey] = frozenset(
    (table, hook)
    for table, hooks in {
        "nat": ("PREROUTING", "OUTPUT", "POSTROUTING"),
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "mangle": ("OUTPUT",),
        "raw": ("PREROUTING", "OUTPUT"),
    }.items()
    for hook in hooks
)
"""The built-in chains in which our jumps stand."""
_SERVICE_SETS = {"VIP": "to a vip", "EXTERNAL": "external traffic", "LOCAL": "external traffic, local backends"}


def wanted_chains(frontends: Frontends, node: Node) -> dict[str, Desired]:
    """By address family; one without services has no rules."""
    result = {}
    for family in ip.FAMILIES:
        own = [one for one in frontends.values() if one.key.family == family]
        result[family] = ipvs_chains(node, family, any(map(is_one_way, own))) if own else Desired()
    return result


def ipvs_chains(node: Node, family: str, one_way: bool = False) -> Desired:
    """The whole of the rules, in one address family that has services.

    one_way: whether there are some whose answers do not come back through this node. Connection tracking, which would
    call the rest of such a connection invalid, does not see them.
    """
    chains = _Chains(node, family)
    desired = Desired({**chains.nat(), **chains.filter(), **chains.mangle()}, chains.jumps())
    if one_way:
        desired.chains.update(chains.raw())
        desired.jumps += chains.raw_jumps()
    return desired


class _Chains:
    def __init__(self, node: Node, family: str) -> None:
        self.node, self.family = node, family
        self.layout = Layout(node.chain_prefix)
        self.sets = SetNames(node.chain_prefix, family)

    def _in(self, what: str, *directions: str) -> str:
        """The match of a set: ``dst,dst`` unless something else is asked for."""
        return f"-m set --match-set {self.sets[what]} {','.join(directions or ('dst', 'dst'))}"

    def nat(self) -> dict[ChainKey, list[str]]:
        chains = masquerade_chains(self.layout, self.node, self.family, NAT)
        postrouting = ("nat", self.layout.shared(NAT + "POSTROUTING"))
        mark = self.layout.shared(NAT + "MARK-MASQ")
        hairpin = self._in("LOOP-BACK", "dst", "dst", "src")
        chains[postrouting].insert(0, rule(mark, "hairpin traffic", interface="! -o lo", match=hairpin))
        chains[services_chain(self.node.chain_prefix)] = self._services(mark)
        return chains

    def _services(self, mark: str) -> list[str]:
        """Who is masqueraded. What is a service's is no other tool's to rewrite."""
        rules = [
            rule(mark, "masquerade external traffic", match=self._in("EXTERNAL")),
            rule(
                mark,
                "masquerade the node itself",
                match=self._in("LOCAL") + " -m addrtype --src-type LOCAL",
            ),
        ]
        if self.node.masquerade_all:
            rules.append(rule(mark, "masquerade all", match=self._in("VIP")))
        elif any(ip.family_of(cidr) == self.family for cidr in self.node.local_cidrs):
            rules.append(rule(self.layout.shared(NAT + "MARK-NONLOCAL"), "to a vip", match=self._in("VIP")))
        rules.append(rule(mark, "the node itself, from the vip", match=self._in("VIP", "src", "dst")))
        return rules + [rule("ACCEPT", what, match=self._in(name)) for name, what in _SERVICE_SETS.items()]

    def filter(self) -> dict[ChainKey, list[str]]:
        backends = self._in("LOOP-BACK", "src", "src", "src")
        drop_invalid = self.node.drop_invalid
        new = rule(self.layout.shared("NEW"), "new connections", match=_NEW)
        to_backends = f"{self._in('LOOP-BACK', 'dst', 'dst', 'dst')} -m ipvs --ipvs"
        unseen = f"{_UNTRACKED} {self._in('GUARDED')}"
        chains = {
            "INPUT": [
                *(self._invalid_to_services() if drop_invalid else []),
                new,
                rule(self.layout.shared("SOURCES"), "source ranges", match=unseen),
                *[rule("ACCEPT", what, match=self._in(name)) for name, what in _SERVICE_SETS.items()],
            ],
            "OUTPUT": [
                new,
                rule("ACCEPT", "service traffic", match=to_backends),
                rule("ACCEPT", "service traffic", match=self._in("ONE-WAY") + " -m ipvs --ipvs"),
            ],
            "NEW": self._new(),
            "SOURCES": self._source_ranges(),
            "REPLIES": [
                *([rule("DROP", "invalid packets", match=f"{_INVALID} {backends}")] if drop_invalid else []),
                rule("ACCEPT", "service traffic", match=f"{_ESTABLISHED} {backends}"),
                rule("ACCEPT", "connections made by iptables", match="-m conntrack --ctstate DNAT " + _ESTABLISHED),
            ],
        }
        return {("filter", self.layout.shared(name)): rules for name, rules in chains.items()}

    def _invalid_to_services(self) -> list[str]:
        return [rule("DROP", "invalid packets", match=f"{_INVALID} {self._in(name)}") for name in _SERVICE_SETS]

    def _new(self) -> list[str]:
        """New connections: who may not, what has no backend, what is a service's, and what else is at its address."""
        unreachable = "REJECT --reject-with " + PORT_UNREACHABLE[self.family]
        reset, bound = "REJECT --reject-with tcp-reset", self._in("BOUND", "dst")
        return [
            rule(self.layout.shared("SOURCES"), "source ranges", match=self._in("GUARDED")),
            rule(reset, "no backends", protocol="tcp", match=self._in("REJECT")),
            rule(unreachable, "no backends", match=self._in("REJECT")),
            *[rule("RETURN", what, match=self._in(name)) for name, what in _SERVICE_SETS.items()],
            rule("RETURN", "echo requests", protocol=_ECHO[self.family], match=bound),
            rule(reset, "no other port of a service address", protocol="tcp", match=bound),
            rule(unreachable, "no other port of a service address", match=bound),
        ]

    def _source_ranges(self) -> list[str]:
        return [
            rule("RETURN", "source range", match=self._in("SOURCES", "dst", "dst", "src")),
            rule("DROP", "outside source ranges"),
        ]

    def mangle(self) -> dict[ChainKey, list[str]]:
        """What the node itself sends, before IPVS has it."""
        return {("mangle", self.layout.shared("SOURCES")): self._source_ranges()}

    def jumps(self) -> list[Jump]:
        prefix, shared = self.layout.prefix, self.layout.shared
        guarded = f"{_NEW} {self._in('GUARDED')}"
        return [
            *(
                Jump("nat", hook, rule(shared(NAT + "SERVICES"), f"{prefix} services"))
                for hook in ("PREROUTING", "OUTPUT")
            ),
            Jump("nat", "POSTROUTING", rule(shared(NAT + "POSTROUTING"), f"{prefix} masquerade")),
            Jump("filter", "INPUT", rule(shared("INPUT"), f"{prefix} services"), overtakes=True),
            Jump("filter", "OUTPUT", rule(shared("OUTPUT"), f"{prefix} services")),
            Jump("filter", "FORWARD", rule(shared("REPLIES"), f"{prefix} replies"), overtakes=True),
            Jump("mangle", "OUTPUT", rule(shared("SOURCES"), f"{prefix} source ranges", match=guarded)),
        ]

    def raw(self) -> dict[ChainKey, list[str]]:
        """What connection tracking is not to see."""
        return {("raw", self.layout.shared("ONE-WAY")): [rule("CT --notrack", "answered past this node")]}

    def raw_jumps(self) -> list[Jump]:
        text = f"{self.layout.prefix} services answered past this node"
        to_chain = rule(self.layout.shared("ONE-WAY"), text, match=self._in("ONE-WAY"))
        return [Jump("raw", hook, to_chain) for hook in ("PREROUTING", "OUTPUT")]
