# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is likely to keep a node's services from working as meant, though nothing is wrong with them. Pure.

One line each: what is so, what it does to services, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._dataplane.iptables.compile import families
from .._model import addresses as ip
from .._model.fields import quoted
from .._model.service import Backend, Node, Service
from .._objects.node_facts import BaseChain, Link, NftRule, Surroundings

_FORWARDING = {ip.IPV4: "net.ipv4.ip_forward", ip.IPV6: "net.ipv6.conf.all.forwarding"}
_BRIDGE_NETFILTER = {ip.IPV4: "net.bridge.bridge-nf-call-iptables", ip.IPV6: "net.bridge.bridge-nf-call-ip6tables"}
_NFT_FAMILIES = {"ip": {ip.IPV4}, "ip6": {ip.IPV6}, "inet": {ip.IPV4, ip.IPV6}}
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")
_NEARLY_FULL = 0.9
_NAMED_ADDRESSES = 3
_NODE_ROLE = "as the role layer4.service_proxy.node does"


def service_warnings(services: Sequence[Service]) -> list[str]:
    """What is allowed in services, but hardly meant."""
    found = []
    for service in services:
        reached = {ip.family_of(address) for dummy, address in service.addresses()}
        unused = [b.address for b in service.backends if service.node_port is None and b.family not in reached]
        if unused:
            text = "service %s: it has no address in the family of its backend %s, which is not used"
            found += [text % (quoted(service.name), address) for address in unused]
        if service.source_ranges and not service.load_balancer_ips:
            text = "service %s: source_ranges guard load_balancer_ips alone, and it has none"
            found.append(text % quoted(service.name))
    return found


def node_warnings(services: Sequence[Service], node: Node, around: Surroundings) -> list[str]:
    """What of the node is in the way of these services."""
    used = families_in_use(services, node)
    return [
        *_forwarding(used, around),
        *_chains(services, node, around),
        *_other_back_end(used, around),
        *_reverse_path(used, around),
        *_bridges(services, node, around),
        *_localhost(services, node, around),
        *_routes(around),
        *_conntrack(around),
        *(f"not checked, since it could not be read: {what}" for what in around.unread),
    ]


def families_in_use(services: Sequence[Service], node: Node) -> set[str]:
    return {family for service in services for family in families(service, node)}


def is_of_iptables(chain: BaseChain) -> bool:
    """Whether it is a built-in chain of iptables-nft; nft(8)'s own users write them in small letters."""
    return chain.family != "inet" and chain.table in _IPTABLES_TABLES and chain.name == chain.hook.upper()


def concerns(chain: BaseChain, services: Sequence[Service], node: Node) -> bool:
    """Whether traffic of services comes through a chain of somebody else. Input sees only that of backends on this host."""
    if is_of_iptables(chain) or not families_in_use(services, node) & _NFT_FAMILIES[chain.family]:
        return False
    if chain.hook == "input":
        return any(
            backend.address in node.addresses and backend.family in _NFT_FAMILIES[chain.family]
            for service in services
            for backend in service.backends
        )
    return chain.hook in ("forward", "output")


def _forwarding(used: set[str], around: Surroundings) -> Iterator[str]:
    text = "%s is 0: connections to services that do not come from this node itself are not forwarded to backends: set it to 1, %s"
    for family in ip.FAMILIES:
        if family in used and around.forwarding.get(family) is False:
            yield text % (_FORWARDING[family], _NODE_ROLE)


def _chains(services: Sequence[Service], node: Node, around: Surroundings) -> Iterator[str]:
    text = (
        "nftables: the chain %(name)s (hook %(hook)s) of table %(family)s %(table)s drops what it does not accept, and traffic "
        "of services may be among it: let it pass, for instance by: nft insert rule %(family)s %(table)s %(name)s ct status dnat accept"
    )
    for chain, rules in around.chains:
        if concerns(chain, services, node) and _drops_translated(chain, rules):
            yield text % chain._asdict()


def _drops_translated(chain: BaseChain, rules: Sequence[NftRule]) -> bool:
    """Whether a translated packet that no particular rule takes ends in a drop."""
    for rule in rules:
        if rule.match != "other" and rule.verdict:
            return rule.verdict != "accept"
    return chain.policy == "drop"


def _other_back_end(used: set[str], around: Surroundings) -> Iterator[str]:
    text = (
        "iptables: the %s back end, which this host's %s is not of, holds rules, too (%s-save shows them): what they drop is dropped, "
        "and what both translate is for the kernel to choose: keep all rules in one back end"
    )
    for family in sorted(used & set(around.other_back_end)):
        other, tool = around.other_back_end[family], "iptables" if family == ip.IPV4 else "ip6tables"
        yield text % (other, tool, f"{tool}-{other}")


def _reverse_path(used: set[str], around: Surroundings) -> Iterator[str]:
    """Who comes in by another interface than the one by which answers would go: with a default route on each, all of elsewhere.

    Hairpins, neighbours on a bridge and node ports on localhost pass a strict filter: they come from where they are routed to.
    """
    text = (
        "net.ipv4.conf.%(name)s.rp_filter is 1 (strict), and the default route leads elsewhere than to %(name)s: connections to "
        "services from outside that arrive there are dropped, also where rules of routing would choose that interface by its "
        "own address: set it to 2"
    )
    if ip.IPV4 in used and around.outside:
        for name in sorted((around.strict & around.uplinks) - around.outside):
            yield text % {"name": name}


def _bridges(services: Sequence[Service], node: Node, around: Surroundings) -> Iterator[str]:
    text = (
        "%s is not 1: backend %s answers its neighbours on bridge %s directly and untranslated, so that their connections to "
        "services fail: set it to 1, %s"
    )
    for link in around.links:
        for family in ip.FAMILIES if _has_neighbours(link, around) else ():
            off = around.bridge_netfilter.get(family) is False and family not in link.netfilter
            backend = _unmasqueraded(link, family, services, node) if off else ""
            if backend:
                yield text % (_BRIDGE_NETFILTER[family], backend, link.name, _NODE_ROLE)


def _has_neighbours(link: Link, around: Surroundings) -> bool:
    """Whether it is a bridge of at least two ports."""
    return link.kind == "bridge" and sum(other.master == link.name for other in around.links) > 1


def _unmasqueraded(bridge: Link, family: str, services: Sequence[Service], node: Node) -> str:
    """A backend behind the bridge to which its neighbours come under their own address; empty if there is none."""
    networks = [network for network in bridge.networks if ip.family_of(network) == family]
    local = [cidr for cidr in node.local_cidrs if ip.family_of(cidr) == family]
    for service in services:
        if not _keeps_sources(service, node):
            continue
        for backend in _taking(service):
            within = [network for network in networks if ip.contains(network, backend.address)]
            if any(not local or any(ip.overlap(cidr, network) for cidr in local) for network in within):
                return backend.address
    return ""


def _keeps_sources(service: Service, node: Node) -> bool:
    """Whether local sources reach it under their own address by one of its ways in."""
    external = service.external_ips or service.load_balancer_ips or service.node_port is not None
    return bool((service.vip and not node.masquerade_all) or (external and service.external_traffic_policy == "local"))


def _taking(service: Service) -> list[Backend]:
    return [backend for backend in service.backends if backend.weight and (backend.ready or backend.serving)]


def _localhost(services: Sequence[Service], node: Node, around: Surroundings) -> Iterator[str]:
    has_any = any(service.node_port is not None for service in services)
    if node.localhost_node_ports and has_any and around.route_localnet is False:
        yield (
            "net.ipv4.conf.all.route_localnet is 0: node ports do not answer on 127.0.0.1, for which localhost_node_ports asks: "
            "set it to 1, " + _NODE_ROLE
        )


def _routes(around: Surroundings) -> Iterator[str]:
    if around.unreachable:
        named = ", ".join(around.unreachable[:_NAMED_ADDRESSES])
        more = len(around.unreachable) - _NAMED_ADDRESSES
        yield (
            "the node has no route to {}{}: its own connections to services there fail (Network is unreachable) before a rule "
            "sees them: add a default route, or one to these addresses".format(
                named, f" and {more} more" if more > 0 else ""
            )
        )


def _conntrack(around: Surroundings) -> Iterator[str]:
    entries, most = around.conntrack or (0, 0)
    if entries > most * _NEARLY_FULL:
        yield (
            f"connection tracking is nearly full ({entries} of {most} entries): beyond that new connections are dropped: raise "
            "net.netfilter.nf_conntrack_max (service_proxy_conntrack_max of the role layer4.service_proxy.node)"
        )
