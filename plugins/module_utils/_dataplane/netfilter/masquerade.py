# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Masquerade by a mark, which iptables and ipvs do alike. Pure."""

from __future__ import annotations

from ..._model import addresses as ip
from ..._model.service import Node
from ..._model.values import Mark
from ..._objects.iptables import ChainKey
from .names import Layout, rule

_ALL_MARK_BITS = 0xFFFFFFFF


def masquerade_chains(layout: Layout, node: Node, family: str, start: str = "") -> dict[ChainKey, list[str]]:
    """Return the chains that mark what is to be masqueraded, and that masquerade it. start: of their names, behind the prefix."""
    mark, mark_masq = node.masquerade_mark, layout.shared(start + "MARK-MASQ")
    chains = {("nat", mark_masq): [rule("MARK --set-xmark " + str(mark), "masquerade this packet")]}
    local = [cidr for cidr in node.local_cidrs if ip.family_of(cidr) == family]
    if local and not node.masquerade_all:
        returns = [rule("RETURN", "local source", source=cidr) for cidr in sorted(local)]
        chains[("nat", layout.shared(start + "MARK-NONLOCAL"))] = returns + [rule(mark_masq, "no local source")]
    target = "MASQUERADE"
    if node.snat_address and ip.family_of(node.snat_address) == family:
        target = "SNAT --to-source " + node.snat_address
    chains[("nat", layout.shared(start + "POSTROUTING"))] = [
        rule("RETURN", "not ours", match=f"-m mark ! --mark {mark_match(mark)}"),
        rule(f"MARK --set-xmark 0x{mark.value:x}/0x0", "so that it is not rewritten twice"),
        rule(target + " --random-fully", "service traffic"),
    ]
    return chains


def mark_match(mark: Mark) -> str:
    """Return a mark as ``-m mark`` prints it."""
    return f"0x{mark.value:x}" if mark.mask == _ALL_MARK_BITS else str(mark)
