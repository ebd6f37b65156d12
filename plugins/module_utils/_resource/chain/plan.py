# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chains with their jumps in one address family: observe, settle their spelling, plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Callable

from ..._kernel.iptables import Xtables, parse_save
from ..._kernel.iptables_canonical import NoScratchError, settle
from ..._objects.iptables import Desired, Jump, Observed, Rules, target_of
from ..._objects.iptables_words import BUILT_IN_CHAINS
from ..._plan.iptables import ChainPlan, plan
from ..._plan.iptables_hooks import first_place
from ..._plan.iptables_order import drops_by_default
from .request import ChainRequest, InvalidChainError

Warn = Callable[[str], None]
HookRules = Mapping[str, Rules]


def plan_chains(requests: Sequence[ChainRequest], xtables: Xtables, warn: Warn) -> ChainPlan:
    """Everything up to applying, for chains of one address family. Raises InvalidChainError and XtablesError."""
    _refuse_contradictions(requests)
    desired, observed = Desired(), Observed()
    for request in requests:
        others = [other for other in requests if other.table == request.table and other is not request]
        wanted, held = _states(request, others, xtables, warn)
        desired.chains.update(wanted.chains)
        desired.jumps += wanted.jumps
        desired.unmanaged |= wanted.unmanaged
        observed.chains.update(held.chains)
        observed.hooks.update(held.hooks)
    return plan(desired, observed)


def _refuse_contradictions(requests: Sequence[ChainRequest]) -> None:
    given = Counter((request.table, request.chain) for request in requests)
    for request in requests:
        if given[request.table, request.chain] > 1:
            raise InvalidChainError(
                f"chain {request.chain} of table {request.table} is given twice: must be given once"
            )
        for jump in request.jumps or ():
            if (request.table, jump.hook) in given:
                raise InvalidChainError(
                    f"chain {request.chain}: jump from {jump.hook!r}: must be in the rules of that chain, which is given too"
                )


def _states(
    request: ChainRequest, others: Sequence[ChainRequest], xtables: Xtables, warn: Warn
) -> tuple[Desired, Observed]:
    """What is wanted of a chain, and what is held. others: that the same task has in the same table."""
    held = xtables.list_chain(request.table, request.chain)
    hooks = _observe_hooks(request, xtables)
    observed = Observed({} if held is None else {(request.table, request.chain): held})
    if not request.present:
        if held is not None:
            _refuse_references(request, others, xtables)
        observed.hooks = _in_table(request, hooks)
        return Desired(), observed
    if request.jumps is not None:
        observed.hooks = _in_table(request, hooks)
    return _desired(request, others, xtables, held, hooks, warn), observed


def _in_table(request: ChainRequest, hooks: HookRules) -> dict[tuple[str, str], Rules]:
    return {(request.table, hook): rules for hook, rules in hooks.items()}


def _observe_hooks(request: ChainRequest, xtables: Xtables) -> dict[str, Rules]:
    hooks: dict[str, Rules] = {}
    for hook in request.hooks:
        rules = xtables.list_chain(request.table, hook)
        if rules is not None:
            hooks[hook] = rules
        elif request.present and hook not in BUILT_IN_CHAINS[request.table]:
            raise InvalidChainError(
                f"{xtables.command}: chain {request.chain}: jump from {hook!r}: table {request.table} has no such chain: "
                f"must be one of {', '.join(BUILT_IN_CHAINS[request.table])}, or a chain that is there"
            )
    return hooks


def _refuse_references(request: ChainRequest, together: Sequence[ChainRequest], xtables: Xtables) -> None:
    """The kernel keeps a chain to which another chain leads; only jumps from `ChainRequest.hooks` are ours to remove.

    together: what becomes of other chains at the same time.
    """
    chains: dict[str, Rules] = {**parse_save(xtables.save(request.table))}
    chains.update(
        {other.chain: other.rules or () for other in together if other.rules is not None or not other.present}
    )
    others = [
        chain
        for chain, rules in sorted(chains.items())
        if chain not in request.hooks
        and chain != request.chain
        and any(target_of(rule) == request.chain for rule in rules)
    ]
    if others:
        raise InvalidChainError(
            f"{xtables.command}: chain {request.chain} cannot be removed from table {request.table}: "
            f"{', '.join(others)} leads to it: remove that first, or name it in jumps"
        )


def _desired(
    request: ChainRequest,
    others: Sequence[ChainRequest],
    xtables: Xtables,
    held: Rules | None,
    hooks: HookRules,
    warn: Warn,
) -> Desired:
    key = (request.table, request.chain)
    rules = list(held or ()) if request.rules is None else list(request.rules)
    jumps = _jump_rules(request, hooks)
    if not _spelled_as_held(rules, held, jumps, hooks):
        try:
            rules, jumps = _settle(request, others, xtables, rules, jumps)
        except NoScratchError as error:
            warn(f"{error}. Only rules and jumps in the spelling of {xtables.command}-save are found unchanged.")
    if request.jumps is None:
        return Desired({key: rules}, unmanaged={key})
    chains = _Chains(xtables, request.table)
    placed = [_jump(request, *jump, hooks, chains) for jump in _once(request, jumps)]
    return Desired({key: rules}, placed)


JumpRule = tuple[str, str, str]
"""Hook, position and rule of a jump."""


def _jump_rules(request: ChainRequest, hooks: HookRules) -> list[JumpRule]:
    """The jumps that are asked for; those that are there, where they are not to be managed."""
    if request.jumps is not None:
        return [(jump.hook, jump.position, jump.rule(request.chain)) for jump in request.jumps]
    return [(hook, "last", rule) for hook, rules in hooks.items() for rule in rules if target_of(rule) == request.chain]


def _spelled_as_held(rules: Rules, held: Rules | None, jumps: Sequence[JumpRule], hooks: HookRules) -> bool:
    return rules == (held or []) and all(rule in hooks[hook] for hook, _position, rule in jumps)


def _settle(
    request: ChainRequest,
    others: Sequence[ChainRequest],
    xtables: Xtables,
    rules: list[str],
    jumps: Sequence[JumpRule],
) -> tuple[list[str], list[JumpRule]]:
    """Rules and jumps as the kernel spells them, by position because a jump with several addresses becomes several."""
    coming = [other.chain for other in others if other.present]
    settled_jumps: list[JumpRule] = []
    for position in sorted({position for _hook, position, _rule in jumps}) or ["last"]:
        chains: dict[str, list[str]] = {request.chain: rules}
        for hook, at, rule in jumps:
            if at == position:
                chains.setdefault(hook, []).append(rule)
        settled = settle(xtables, request.table, chains, coming)
        settled_jumps += [(hook, position, rule) for hook in chains if hook != request.chain for rule in settled[hook]]
    return settled[request.chain], settled_jumps


def _once(request: ChainRequest, jumps: Sequence[JumpRule]) -> Sequence[JumpRule]:
    seen: set[tuple[str, str]] = set()
    for hook, _position, rule in jumps:
        if (hook, rule) in seen:
            raise InvalidChainError(
                f"chain {request.chain}: jump from {hook!r} ({rule}) is given twice: must be given once"
            )
        seen.add((hook, rule))
    return jumps


class _Chains(Mapping[str, Rules]):
    """The chains of a table, each read when it is asked for: reading all of them takes seconds where there are thousands."""

    def __init__(self, xtables: Xtables, table: str) -> None:
        self._read = lru_cache(maxsize=None)(partial(xtables.list_chain, table))
        self._save = partial(xtables.save, table)

    def __getitem__(self, chain: str) -> Rules:
        rules: Rules | None = self._read(chain) if chain else None
        if rules is None:
            raise KeyError(chain)
        return rules

    def __iter__(self) -> Iterator[str]:
        return iter(parse_save(self._save()))

    def __len__(self) -> int:
        return len(parse_save(self._save()))


def _jump(request: ChainRequest, hook: str, position: str, rule: str, hooks: HookRules, chains: HookRules) -> Jump:
    """The jump of a plan. It stays where nothing but jumps to chains that exist stands between it and its end, and, if it is to be
    first, none of them drops by default. It stands behind those of `ChainRequest.behind` in front of which nobody else drops.
    """
    rules = list(hooks[hook])
    behind = _before_drops([other for other in rules if other != rule], request.behind, chains)
    place = first_place(rules, behind)
    stays = is_overtaken = False
    if rule in rules:
        index = rules.index(rule)
        beyond = rules[place:index] if position == "first" else rules[index + 1 :]
        stays = all(target_of(other) in chains for other in beyond)
        is_overtaken = position == "first" and bool(beyond) and drops_by_default(beyond, chains)
    return Jump(request.table, hook, rule, position, anchored=not stays, overtakes=is_overtaken, behind=behind)


def _before_drops(rules: Rules, behind: Sequence[str], chains: HookRules) -> tuple[str, ...]:
    """Those of some chains to which rules lead before somebody else drops."""
    before: list[str] = []
    found = set()
    for rule in rules:
        target = target_of(rule) or ""
        if target not in behind:
            before.append(rule)
        elif not drops_by_default(before, chains):
            found.add(target)
    return tuple(chain for chain in behind if chain in found)
