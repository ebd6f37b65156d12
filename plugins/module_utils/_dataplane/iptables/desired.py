# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which services a node shall have, given those that a task names and those that the kernel holds. Pure.

One address family at a time. What the kernel holds is given back to its services by the comments of the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ..._model import addresses as ip
from ..._model.service import Node
from ..._objects.iptables import ChainKey, Desired, Observed, Rules, target_of
from ..netfilter.names import Layout, ServiceRules, owner_of
from .dispatch import dispatch_chains
from .shared_chains import assemble, endpoint_chains, guard_chains, jumps_to


def with_services(
    parts: Iterable[ServiceRules],
    names: Collection[str],
    observed: Observed,
    node: Node,
    family: str,
    exclusive: bool,
    keep_shared: bool = False,
    backends: Iterable[str] = (),
) -> Desired:
    """The state in which the named services are as compiled, the others as they are or (exclusive) gone.

    backends: of the others, as far as what is observed does not hold their chains.
    keep_shared: the chains and jumps that serve all stay, also without any service.
    """
    kept = ServiceRules({}, {}) if exclusive else _kept(observed, names, Layout(node.chain_prefix))
    all_parts = list(parts) + ([kept] if kept.entries or keep_shared else [])
    return assemble(all_parts, node, family, backends)


def edit_services(
    before: Mapping[str, Desired], parts: Mapping[str, Iterable[ServiceRules]], names: Collection[str], node: Node
) -> dict[str, Desired]:
    """Return the states, by address family, in which the named services are as compiled, or gone, and the others as before."""
    return {
        family: with_services(
            own, names, Observed(dict(before.get(family, Desired()).chains)), node, family, exclusive=False
        )
        for family, own in parts.items()
    }


def without_services(
    names: Collection[str],
    observed: Observed,
    node: Node,
    keep_shared: bool = False,
    backends: Iterable[str] = (),
) -> Desired:
    """The state in which the named services are gone and nothing else is different.

    With the last service all that is ours goes, but for what guards localhost, and the chains and jumps that serve all if they
    are to be kept.
    backends: as for `with_services`.
    """
    layout = Layout(node.chain_prefix)
    if not (keep_shared or _kept(observed, names, layout).entries):
        guard = {key: rules for key, rules in observed.chains.items() if key in guard_chains(node, ip.IPV4)}
        return Desired(guard, jumps_to(guard, layout))
    gone = _chains_of(names, observed, layout)
    chains: dict[ChainKey, Rules] = {
        key: _without(rules, names) for key, rules in observed.chains.items() if key not in gone
    }
    if any(layout.dispatch(key) not in (None, key) for key in chains):
        chains = _grown_again(chains, layout)
    for table, dispatch in (("nat", "SERVICES"), ("filter", "FIREWALL")):
        _drop_empty(chains, (table, layout.shared(dispatch)), (table, layout.shared("NODEPORTS")), layout)
    chains.update({key: rules for key, rules in endpoint_chains(chains, layout, backends).items() if key in chains})
    return Desired(chains, jumps_to(chains, layout))


def _kept(observed: Observed, names: Collection[str], layout: Layout) -> ServiceRules:
    """Chains and entries of the services that are not named."""
    gone = _chains_of(names, observed, layout)
    chains = {
        key: list(rules) for key, rules in observed.chains.items() if layout.is_per_service(key) and key not in gone
    }
    entries: dict[ChainKey, list[str]] = {}
    for key, rules in observed.chains.items():
        if not layout.is_per_service(key):
            own = [rule for rule, owner in zip(rules, map(owner_of, rules)) if owner and owner not in names]
            if own:
                entries.setdefault(layout.dispatch(key) or key, []).extend(own)
    return ServiceRules(chains, entries)


def _chains_of(names: Collection[str], observed: Observed, layout: Layout) -> set[ChainKey]:
    """The chains of the named services, also those whose rules somebody took away."""
    found = {("nat", layout.chain_name(kind, name)) for kind in layout.PER_SERVICE for name in names}
    own = (key for key, rules in observed.chains.items() if any(owner_of(rule) in names for rule in rules))
    found.update(key for key in own if layout.is_per_service(key))
    new = found
    while new:
        led_to = {("nat", target_of(rule) or "") for key in new for rule in observed.chains.get(key, ())}
        new = {key for key in led_to - found if layout.is_per_service(key) and not _has_owner(observed, key)}
        found = found | new
    return found


def _has_owner(observed: Observed, key: ChainKey) -> bool:
    """Whether a chain has a rule of any service."""
    return any(map(owner_of, observed.chains.get(key, ())))


def _without(rules: Rules, names: Collection[str]) -> list[str]:
    return [rule for rule in rules if owner_of(rule) not in names]


def _grown_again(chains: Mapping[ChainKey, Rules], layout: Layout) -> dict[ChainKey, Rules]:
    """The chains with the dispatch trees that what is left of the services makes.

    What has no owner keeps its order at the end of a tree's first chain, and goes from the others.
    """
    result = {key: rules for key, rules in chains.items() if layout.dispatch(key) is None}
    trees: dict[ChainKey, list[str]] = {}
    for key, rules in chains.items():
        first = layout.dispatch(key)
        if first:
            trees.setdefault(first, []).extend(rule for rule in rules if owner_of(rule))
    for (table, name), rules in trees.items():
        tree = dispatch_chains(layout, name, rules)
        kept = chains.get((table, name), ())
        tree[name] += [one for one in kept if not (owner_of(one) or _is_branch(one, (table, name), layout))]
        result.update({(table, chain): grown for chain, grown in tree.items()})
    return result


def _is_branch(rule: str, first: ChainKey, layout: Layout) -> bool:
    """Whether a rule of the tree that begins with this chain leads down in it."""
    return layout.dispatch((first[0], target_of(rule) or "")) == first


def _drop_empty(chains: dict[ChainKey, Rules], dispatch: ChainKey, leaf: ChainKey, layout: Layout) -> None:
    """Node ports are dispatched only where there are any (`assemble`)."""
    if leaf in chains and not chains[leaf]:
        del chains[leaf]
        held = chains.get(dispatch, ())
        chains[dispatch] = [rule for rule in held if owner_of(rule) or _is_branch(rule, dispatch, layout)]
