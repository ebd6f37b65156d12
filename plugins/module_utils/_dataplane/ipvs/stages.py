# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The iptables side of the ipvs dataplane in one address family: which chains are there when. Pure.

A node that comes from the iptables dataplane goes on with its nat rules until the addresses are bound, so that no connection
meets neither; the filter rules of both stand side by side that long.
"""

from __future__ import annotations

from typing import NamedTuple

from ..._model.service import Node
from ..._objects.iptables import Desired, Observed
from ..._plan.iptables import ChainPlan, plan
from ..netfilter.names import Layout
from ..netfilter.shared_chains import hook_jumps


class StagedChains(NamedTuple):
    """prepared: before virtual services change; switched: when IPVS can take over; removed: when IPVS has nothing left.
    whole: all of it, for people to read.
    """

    prepared: ChainPlan
    switched: ChainPlan
    removed: ChainPlan
    whole: ChainPlan


def stage_chains(observed: Observed, node: Node, final: Desired) -> StagedChains:
    """final: empty where the family has no services. observed: the chains of both dataplanes."""
    if not final.chains:
        whole = plan(final, observed)
        return StagedChains(ChainPlan(), ChainPlan(), whole, whole)
    whole = plan(final, observed)
    if not uses_iptables(observed, node):
        return StagedChains(whole, ChainPlan(), ChainPlan(), whole)
    prepared = plan(_beside_iptables(final, observed, Layout(node.chain_prefix)), observed)
    return StagedChains(prepared, plan(final, prepared.result), ChainPlan(), whole)


def uses_iptables(observed: Observed, node: Node) -> bool:
    """Whether the iptables dataplane has services here."""
    return ("filter", Layout(node.chain_prefix).shared("FIREWALL")) in observed.chains


def _beside_iptables(final: Desired, observed: Observed, layout: Layout) -> Desired:
    """The filter and mangle chains of IPVS, with all that iptables has."""
    held = {key: rules for key, rules in observed.chains.items() if layout.is_ours(key)}
    added = {key: rules for key, rules in final.chains.items() if layout.is_of_ipvs(key)}
    return Desired({**held, **added}, hook_jumps(layout) + [jump for jump in final.jumps if jump.table != "nat"])
