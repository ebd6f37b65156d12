# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is likely to keep a node's services from working as meant, though nothing is wrong with them. Pure.

One line each: what is so, what it does to services, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from .._model import addresses as ip
from .._model.own_ports import OwnPort
from .._model.service import Node
from .._model.service_facts import ServiceFacts
from .._objects.node_facts import BaseChain, Link, NftRule, NodeFacts
from .own_ports import listener_warnings

_FORWARDING = {ip.IPV4: "net.ipv4.ip_forward", ip.IPV6: "net.ipv6.conf.all.forwarding"}
_BRIDGE_NETFILTER = {ip.IPV4: "net.bridge.bridge-nf-call-iptables", ip.IPV6: "net.bridge.bridge-nf-call-ip6tables"}
_NFT_FAMILIES = {"ip": {ip.IPV4}, "ip6": {ip.IPV6}, "inet": {ip.IPV4, ip.IPV6}}
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_NEARLY_FULL = 0.9
_NAMED_ADDRESSES = 3
_NODE_ROLE = "as the role layer4.service_proxy.node does"


def node_warnings(facts: ServiceFacts, node: Node, observed: NodeFacts) -> list[str]:
    """What of the node is in the way of its services."""
    used = facts.families
    return [
        *_forwarding(used, observed),
        *_chains(facts, observed),
        *_reverse_path(used, observed),
        *_bridges(facts, node, observed),
        *_localhost(facts, node, observed),
        *_routes(observed),
        *_conntrack(observed),
        *listener_warnings(map(OwnPort.from_text, facts.own_ports), observed.listeners, node),
        *(f"not checked, since it could not be read: {what}" for what in observed.unread),
    ]


def concerns(chain: BaseChain, facts: ServiceFacts, at_input: bool = False) -> bool:
    """Whether traffic of services comes through a chain of somebody else. Input sees only that of backends on this host, or all."""
    if chain.is_of_iptables or chain.hook not in HOOKS:
        return False
    families = facts.local_backend_families if chain.hook == "input" and not at_input else facts.families
    return bool(families & _NFT_FAMILIES[chain.family])


def _forwarding(used: Set[str], observed: NodeFacts) -> Iterator[str]:
    text = "%s is 0: connections to services that do not come from this node itself are not forwarded to backends: set it to 1, %s"
    for family in ip.FAMILIES:
        if family in used and observed.forwarding.get(family) is False:
            yield text % (_FORWARDING[family], _NODE_ROLE)


def _chains(facts: ServiceFacts, observed: NodeFacts) -> Iterator[str]:
    text = (
        "nftables: the chain %(name)s (hook %(hook)s) of table %(family)s %(table)s drops what it does not accept, and traffic "
        "of services may be among it: let it pass"
    )
    advice = ", for instance by: nft insert rule %(family)s %(table)s %(name)s ct status dnat accept"
    for chain, rules in observed.chains:
        is_translated = not (chain.hook == "prerouting" or (chain.hook == "input" and observed.at_input))
        if concerns(chain, facts, observed.at_input) and _drops_services(chain, rules, is_translated):
            yield (text + advice if is_translated else text) % chain._asdict()


def _drops_services(chain: BaseChain, rules: Sequence[NftRule], is_translated: bool) -> bool:
    """Whether a packet to a service that no particular rule takes ends in a drop. is_translated: whether each has been by then."""
    particular = ("other",) if is_translated else ("other", "ct status dnat")
    for rule in rules:
        if rule.match not in particular and rule.verdict:
            return rule.verdict != "accept"
    return chain.policy == "drop"


def _reverse_path(used: Set[str], observed: NodeFacts) -> Iterator[str]:
    """Who comes in by another interface than the one by which answers would go: with a default route on each, all of elsewhere.

    Hairpins, neighbours on a bridge and node ports on localhost pass a strict filter: they come from where they are routed to.
    """
    text = (
        "net.ipv4.conf.%(name)s.rp_filter is 1 (strict), and the default route leads elsewhere than to %(name)s: connections to "
        "services from outside that arrive there are dropped, also where rules of routing would choose that interface by its "
        "own address: set it to 2"
    )
    if ip.IPV4 in used and observed.outside:
        for name in sorted((observed.strict & observed.uplinks) - observed.outside):
            yield text % {"name": name}


def _bridges(facts: ServiceFacts, node: Node, observed: NodeFacts) -> Iterator[str]:
    text = (
        "%s is not 1: backend %s answers its neighbours on bridge %s directly and untranslated, so that their connections to "
        "services fail: set it to 1, %s"
    )
    for link in observed.links:
        for family in ip.FAMILIES if _has_neighbours(link, observed) else ():
            off = observed.bridge_netfilter.get(family) is False and family not in link.netfilter
            backend = _unmasqueraded(link, family, facts, node) if off else ""
            if backend:
                yield text % (_BRIDGE_NETFILTER[family], backend, link.name, _NODE_ROLE)


def _has_neighbours(link: Link, observed: NodeFacts) -> bool:
    """Whether it is a bridge of at least two ports."""
    return link.kind == "bridge" and sum(other.master == link.name for other in observed.links) > 1


def _unmasqueraded(bridge: Link, family: str, facts: ServiceFacts, node: Node) -> str:
    """A backend behind the bridge to which its neighbours come under their own address; empty if there is none."""
    local = [cidr for cidr in node.local_cidrs if ip.family_of(cidr) == family]
    networks = [
        network
        for network in bridge.networks
        if ip.family_of(network) == family and (not local or any(ip.overlap(cidr, network) for cidr in local))
    ]
    behind = (one for one in facts.unmasqueraded_backends if any(ip.contains(network, one) for network in networks))
    return min(behind, key=ip.sort_key, default="")


def _localhost(facts: ServiceFacts, node: Node, observed: NodeFacts) -> Iterator[str]:
    if node.localhost_node_ports and facts.has_node_port and observed.route_localnet is False:
        yield (
            "net.ipv4.conf.all.route_localnet is 0: node ports do not answer on 127.0.0.1, for which localhost_node_ports asks: "
            "set it to 1, " + _NODE_ROLE
        )


def _routes(observed: NodeFacts) -> Iterator[str]:
    if observed.unreachable:
        named = ", ".join(observed.unreachable[:_NAMED_ADDRESSES])
        more = len(observed.unreachable) - _NAMED_ADDRESSES
        yield (
            "the node has no route to {}{}: its own connections to services there fail (Network is unreachable) before a rule "
            "sees them: add a default route, or one to these addresses".format(
                named, f" and {more} more" if more > 0 else ""
            )
        )


def _conntrack(observed: NodeFacts) -> Iterator[str]:
    entries, most = observed.conntrack or (0, 0)
    if entries > most * _NEARLY_FULL:
        yield (
            f"connection tracking is nearly full ({entries} of {most} entries): beyond that new connections are dropped: raise "
            "net.netfilter.nf_conntrack_max (service_proxy_conntrack_max of the role layer4.service_proxy.node)"
        )
