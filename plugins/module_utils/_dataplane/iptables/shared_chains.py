# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains that serve all services, and the jumps that lead to them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.iptables import ChainKey, Desired, Jump, Rules
from ..netfilter.masquerade import mark_match, masquerade_chains
from ..netfilter.names import SAME_ADDRESS, Layout, ServiceRules, rule
from .dispatch import dispatch_chains

_DNAT_TARGET = " -j DNAT "
_LOOPBACK = {ip.IPV4: "127.0.0.0/8", ip.IPV6: "::1/128"}
_MOST_NETWORKS = 32
_DNAT = re.compile(r"--to-destination \[?([0-9a-f.:]+?)\]?:\d+$", re.MULTILINE)
_DESTINATION = re.compile(r"^-d ([0-9a-f.:]+)/(?:32|128) -p", re.MULTILINE)


def assemble(parts: Sequence[ServiceRules], node: Node, family: str, backends: Iterable[str] = ()) -> Desired:
    """All services' rules in one state, with the shared chains around them. Without services there is only what guards localhost.

    backends: further addresses that services translate to, whose chains are in none of the parts.
    """
    layout = Layout(node.chain_prefix)
    entries: dict[ChainKey, list[str]] = {}
    desired = Desired(guard_chains(node, family))
    for part in parts:
        desired.chains.update(part.chains)
        for key, rules in part.entries.items():
            entries.setdefault(key, []).extend(rules)
    if parts:
        desired.chains.update(_shared_chains(entries, node, family))
        made = endpoint_chains(desired.chains, layout, backends)
        unneeded = _unneeded(desired.chains, layout, node)
        desired.chains.update({key: rules for key, rules in made.items() if key not in unneeded})
        _complete_for_hairpin(desired.chains, layout, family)
        _complete_for_kept(desired.chains, layout, node)
    desired.jumps = jumps_to(desired.chains, layout)
    return desired


def _complete_for_kept(chains: dict[ChainKey, Rules], layout: Layout, node: Node) -> None:
    """Services that stay as they are may lead to a chain that the node's settings of now do not need."""
    name = layout.shared("MARK-NONLOCAL")
    if ("nat", name) not in chains and any(text.endswith(name) for rules in chains.values() for text in rules):
        mark = rule(layout.shared("MARK-MASQ"), "no local source")
        chains[("nat", name)] = [mark] if node.masquerade_all else []


def _unneeded(chains: Mapping[ChainKey, Rules], layout: Layout, node: Node) -> set[ChainKey]:
    """Of the chains that tell where backends are. Those that services which stay as they are may need are not."""
    unneeded: set[ChainKey] = set() if node.drop_invalid else {("filter", layout.shared("INVALID"))}
    if node.backend_chains and not any(
        _DNAT_TARGET in text for key, rules in chains.items() if not layout.is_of_backend(key) for text in rules
    ):
        unneeded.add(("nat", layout.shared("HAIRPIN")))
    return unneeded


def _complete_for_hairpin(chains: dict[ChainKey, Rules], layout: Layout, family: str) -> None:
    """What chains of backends do by the source, for those that have none: where a packet is for its own sender, it is marked."""
    key, postrouting = (("nat", layout.shared(name)) for name in ("HAIRPIN", "POSTROUTING"))
    if key in chains:
        match = "-m conntrack --ctstate DNAT " + SAME_ADDRESS[family]
        reached = rule(key[1], "what reaches itself", interface="! -o lo", match=match)
        chains[postrouting] = [reached, *chains[postrouting]]


def _shared_chains(entries: dict[ChainKey, list[str]], node: Node, family: str) -> dict[ChainKey, list[str]]:
    layout = Layout(node.chain_prefix)
    chains: dict[ChainKey, list[str]] = {
        ("nat", layout.shared("SERVICES")): [],
        ("filter", layout.shared("FIREWALL")): [],
    }
    chains.update(masquerade_chains(layout, node, family))
    chains.update(_forward_chain(layout, node))
    for (table, name), rules in entries.items():
        tree = dispatch_chains(layout, name, rules)
        chains.update({(table, chain): found for chain, found in tree.items()})
    for table, dispatch in (("nat", "SERVICES"), ("filter", "FIREWALL")):
        if (table, layout.shared("NODEPORTS")) in entries:
            chains[(table, layout.shared(dispatch))] += _node_port_tail(layout, node, family)
    return chains


def _node_port_tail(layout: Layout, node: Node, family: str) -> list[str]:
    """The end of a dispatch chain: what is for an address of the node may be for a node port."""
    target = layout.shared("NODEPORTS")
    loopback = _LOOPBACK[family]
    local = "-m addrtype --dst-type LOCAL"
    cidrs: list[str] = [cidr for cidr in node.node_port_addresses if ip.family_of(cidr) == family]
    if not node.node_port_addresses:
        cidrs = [""]
    first = "RETURN"
    if _serves_localhost(node, family):
        first = target
    what = "no node ports on localhost" if first == "RETURN" else "node ports on localhost"
    tail = [rule(first, what, destination=loopback)]
    return tail + [rule(target, "node ports", destination=cidr, match=local) for cidr in cidrs]


def _serves_localhost(node: Node, family: str) -> bool:
    return node.localhost_node_ports and family == ip.IPV4


def guard_chains(node: Node, family: str) -> dict[ChainKey, Rules]:
    """What a node needs for its setting alone, whatever services it has: route_localnet may be on as long as it asks for that."""
    guard = localhost_guard(Layout(node.chain_prefix))
    return {guard: _LOCALHOST_RULES} if _serves_localhost(node, family) else {}


def localhost_guard(layout: Layout) -> ChainKey:
    """Return the chain that keeps others out of localhost."""
    return ("filter", layout.shared("LOCALHOST"))


_LOCALHOST_RULES = [
    rule("DROP", "localhost is for this node", match="-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"),
]
"""route_localnet, which node ports on localhost need, opens all of it to whoever routes it to this node (CVE-2020-8558)."""


def _localhost_jump(layout: Layout) -> Jump:
    """It comes first: what others accept in front of it would be accepted on localhost, too."""
    comment = f"{layout.prefix} localhost"
    jump = rule(layout.shared("LOCALHOST"), comment, destination=_LOOPBACK[ip.IPV4], interface="! -i lo")
    return Jump("filter", "INPUT", jump, anchored=True)


def _forward_chain(layout: Layout, node: Node) -> dict[ChainKey, list[str]]:
    marked = f"-m mark --mark {mark_match(node.masquerade_mark)}"
    translated = "-m conntrack --ctstate DNAT -m conntrack --ctstate "
    invalid = rule(layout.shared("INVALID"), "invalid packets", match="-m conntrack --ctstate INVALID")
    return {
        ("filter", layout.shared("FORWARD")): [
            *([invalid] if node.drop_invalid else []),
            rule("ACCEPT", "masqueraded service traffic", match=marked),
            rule("ACCEPT", "established service traffic", match=translated + "RELATED,ESTABLISHED"),
            rule(layout.shared("BACKENDS"), "new service traffic", match=translated + "NEW"),
        ]
    }


def translated_to(rules: Iterable[str]) -> list[str]:
    """The addresses of the backends that these rules translate to."""
    return _DNAT.findall("\n".join(rules))


def endpoint_chains(
    chains: Mapping[ChainKey, Rules], layout: Layout, further: Iterable[str] = ()
) -> dict[ChainKey, list[str]]:
    """The chains that tell service traffic from other traffic by where it goes to and comes from.

    further: addresses of backends beside those that the chains lead to.

    A packet that conntrack calls invalid is not rewritten: from a backend it would reach the client under the
    backend's own address, which resets the connection (kubernetes#74839).
    """
    first = ("nat", layout.shared("SERVICES"))
    dispatch: list[str] = []
    others: list[str] = []
    for key, rules in chains.items():
        (dispatch if layout.dispatch(key) == first else others).extend(rules)
    backends = _networks(chain(translated_to(others), further))
    services = _networks_of_services(tuple(dispatch))
    mark = layout.shared("MARK-MASQ")
    return {
        ("filter", layout.shared("BACKENDS")): [rule("ACCEPT", "to backends", destination=cidr) for cidr in backends],
        ("nat", layout.shared("HAIRPIN")): [rule(mark, "backends that do", destination=cidr) for cidr in backends],
        ("filter", layout.shared("INVALID")): [
            *(rule("DROP", "from backends", source=cidr) for cidr in backends),
            *(rule("DROP", "to services", destination=cidr) for cidr in services),
        ],
    }


@lru_cache(maxsize=4)
def _networks_of_services(rules: tuple[str, ...]) -> list[str]:
    """Networks that hold the addresses which these rules are for."""
    return _networks(_DESTINATION.findall("\n".join(rules)))


def _networks(found: Iterable[str]) -> list[str]:
    """At most `_MOST_NETWORKS` networks that hold all these addresses, as narrow as so many can be."""
    return ip.covering_networks(found, _MOST_NETWORKS)


def jumps_to(chains: Collection[ChainKey], layout: Layout) -> list[Jump]:
    """Return the jumps that these chains of a node need."""
    guard = localhost_guard(layout)
    localhost = [_localhost_jump(layout)] if guard in chains else []
    return [*localhost, *(hook_jumps(layout) if any(key != guard for key in chains) else [])]


def hook_jumps(layout: Layout) -> list[Jump]:
    """The rules in the chains of others that lead to ours."""
    prefix = layout.prefix
    jumps = [
        Jump("nat", hook, rule(layout.shared("SERVICES"), f"{prefix} services")) for hook in ("PREROUTING", "OUTPUT")
    ]
    jumps.append(Jump("nat", "POSTROUTING", rule(layout.shared("POSTROUTING"), f"{prefix} masquerade")))
    firewall = rule(
        layout.shared("FIREWALL"), f"{prefix} services without backends", match="-m conntrack --ctstate NEW"
    )
    jumps += [Jump("filter", hook, firewall, overtakes=True) for hook in ("INPUT", "FORWARD", "OUTPUT")]
    jumps.append(Jump("filter", "FORWARD", rule(layout.shared("FORWARD"), f"{prefix} forwarding"), overtakes=True))
    return jumps
