# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of the roles bridge and backend: in iptables or in nftables, as those of the node's services; what the other has goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._dataplane.own_tables import OwnTables
from .._kernel.iptables import Xtables, both_families
from .._kernel.iptables_variant import has_chain
from .._kernel.nft import Nft, NoNftError
from .._kernel.rules_state import RulesState
from .._objects.iptables import COMMANDS
from .._objects.nftables_parts import TABLES, is_of
from .._plan.iptables_steps import FamilyPlans
from .._plan.nftables import plan_tables
from .._resource.chain.plan import plan_chains
from .._resource.chain.request import ChainRequest, parse_chain
from .boot import Part
from .boot_parts import chains_part, tables_part
from .change import Change, lines
from .nft_rules import Tables
from .settled_chains import SettledChains

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class RoleRules(NamedTuple):
    """The rules of a role in the terms of either packet filter."""

    role: str
    """bridge or backend"""
    chains: Sequence[Mapping[str, Any]]
    """For iptables, as `nat_chain` takes them; with state absent where there is to be none."""
    tables: Tables
    """For nftables; empty where there is to be none."""

    def boot_part(self, in_iptables: bool) -> Part | None:
        """Return what is kept of them for boot; None for nothing."""
        return chains_part(map(parse_chain, self.chains)) if in_iptables else tables_part(self.tables)


class RuleWriter:
    """Makes rules as they are to be on the host of a module. in_iptables: or else in nftables."""

    def __init__(self, module: AnsibleModule, in_iptables: bool) -> None:
        self._module, self._in_iptables = module, in_iptables

    def changes(self, rules: RoleRules) -> Iterator[Change]:
        """Yield what differs, each to be applied before the next is asked for: what is new first."""
        if self._in_iptables:
            yield self._converge_chains(rules)
            if _has_own_table():
                yield _tables_change(rules.role, {})
        else:
            yield _tables_change(rules.role, rules.tables)
            yield self._remove_chains(rules)

    def predict(self, rules: RoleRules) -> Iterator[Change]:
        """Yield what a host gets that has no tools yet, and hence no rules of iptables."""
        if self._in_iptables:
            texts = [_predicted(one) for one in map(parse_chain, rules.chains) if one.present]
            yield Change("", "", "".join(texts))
        else:
            yield _tables_change(rules.role, rules.tables)

    def _converge_chains(self, rules: RoleRules) -> Change:
        """The change in iptables. While nobody changes a rule there, what a run has found as wanted is not read again."""
        tables = both_families(self._module)
        state = RulesState(tables)
        settled = SettledChains(lambda: state.now() if state.is_nft else "")
        if settled.are_as_wanted(rules.role, rules.chains):
            return Change("")
        plan = self._plan_chains([parse_chain(one) for one in rules.chains], tables)
        if not plan.changed and not self._module.check_mode:
            settled.keep(rules.role, rules.chains)
        return Change("", plan.diff["before"], plan.diff["after"], plan.apply)

    def _remove_chains(self, rules: RoleRules) -> Change:
        """The removal from iptables, which is not called where it has none of them."""
        tables = both_families(self._module)
        requests = [parse_chain({**one, "state": "absent"}) for one in rules.chains]
        held = [
            one for one in requests if any(has_chain(tables[family], one.table, one.chain) for family in one.families)
        ]
        if not held:
            return Change("")
        plan = self._plan_chains(held, tables)
        return Change("", plan.diff["before"], plan.diff["after"], plan.apply)

    def _plan_chains(self, requests: Sequence[ChainRequest], tables: Mapping[str, Xtables]) -> FamilyPlans:
        """Chains that are neither wanted nor there take no look at the chains around."""
        plans = {}
        for family, tool in tables.items():
            concerned = [
                one
                for one in requests
                if family in one.families and (one.present or tool.list_chain(one.table, one.chain) is not None)
            ]
            if concerned:
                plans[family] = plan_chains(concerned, tool, self._module.warn)
        plan = FamilyPlans(plans, tables)
        plan.test()
        return plan


def _has_own_table() -> bool:
    """Tell whether there is a table of ours, of whatever part. Raises NftError."""
    try:
        with Nft() as nft:
            return not nft.tables().isdisjoint(TABLES.values())
    except NoNftError:
        return False


def _tables_change(role: str, wanted: Tables) -> Change:
    own = OwnTables(is_of(role))
    held, _generation = own.read()
    plan = plan_tables({TABLES[family]: table for family, table in wanted.items()}, held)
    before, after = (f"# nft\n{text}" if text else "" for text in (plan.before(), plan.after()))

    def apply() -> None:
        own.apply(plan)

    return Change("", before, after, apply)


def _predicted(request: ChainRequest) -> str:
    """Return the lines of a chain on a host without rules."""
    jumps = [f"-A {jump.hook} {jump.rule(request.chain)}" for jump in request.jumps or ()]
    rules = [f"-A {request.chain} {one}" for one in request.rules or ()]
    text = lines([f"*{request.table}", f":{request.chain} - [0:0]", *jumps, *rules, "COMMIT"])
    return "".join(f"# {COMMANDS[family]}\n{text}" for family in request.families)
