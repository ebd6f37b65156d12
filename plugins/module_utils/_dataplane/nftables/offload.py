# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The flow table of the setting `flow_offload`, and the chain that hands connections of services to it. Pure.

A connection goes there with the first answer of a backend behind its handshake; from then on its packets pass from device to device
without any chain, of whatever table. Only TCP: not every kernel deletes what is offloaded (EBUSY), and a UDP flow could not leave a
backend that is gone.
"""

from __future__ import annotations

from ..._model.service import Node
from ..._objects.nftables import Chain, FlowOffload, Flowtable, HasBits, Hook, InSet, Match, Rule
from ..._objects.nftables_types import pack
from . import maps
from .rule_maker import FILTER

CHAIN, FLOWTABLE = "offload", "offloaded"
_CONDITIONS = (
    Match("meta l4proto", pack("inet_proto", "tcp")),
    HasBits("ct state", pack("ct_state", "established")),
    HasBits("ct status", pack("ct_status", "dnat")),
)


def offload_chains(node: Node, family: str) -> dict[str, Chain]:
    """Return the base chain, where devices are given."""
    source = maps.FIELDS[family].source
    rule = Rule((*_CONDITIONS, InSet((source, source), maps.HAIRPIN), FlowOffload(FLOWTABLE)))
    return {CHAIN: Chain((rule,), Hook("filter", "forward", FILTER))} if node.flow_offload else {}


def flowtables(node: Node) -> dict[str, Flowtable]:
    """Return the flow table, where devices are given."""
    devices = tuple(sorted(set(node.flow_offload)))
    return {FLOWTABLE: Flowtable(FILTER, devices)} if devices else {}
