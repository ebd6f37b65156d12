# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which chains of the ipvs dataplane are there when, in one address family. Pure.

On a node that comes from another dataplane, that one goes on until the addresses are bound: only then our chain takes service
traffic away from all nat rules behind it, so that no connection meets neither.
"""

from __future__ import annotations

from typing import NamedTuple

from ..._objects.iptables import ChainKey, Desired, Observed, target_of
from ..._plan.iptables import ChainPlan, plan


class StagedChains(NamedTuple):
    """The same change, in the parts in which it is made, and whole, for people to read."""

    prepared: ChainPlan
    """Before virtual services change."""
    activated: ChainPlan
    """When the addresses are bound."""
    removed: ChainPlan
    """When IPVS has nothing left."""
    whole: ChainPlan


def stage_chains(observed: Observed, final: Desired, services: ChainKey) -> StagedChains:
    """final: empty where the family has no services. services: the chain that takes service traffic away from others."""
    whole = plan(final, observed)
    if not final.chains:
        return StagedChains(ChainPlan(), ChainPlan(), whole, whole)
    rules = final.chains[services]
    takes = [rule for rule in rules if target_of(rule) == "ACCEPT"]
    if set(takes) <= set(observed.chains.get(services, ())):
        return StagedChains(whole, ChainPlan(), ChainPlan(), whole)
    marks_only = {**final.chains, services: [rule for rule in rules if rule not in takes]}
    prepared = plan(Desired(marks_only, final.jumps), observed)
    return StagedChains(prepared, plan(final, prepared.result), ChainPlan(), whole)
