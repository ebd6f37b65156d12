# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether iptables drops what this dataplane forwards: a chain of one table does not overrule the policy of another's.

Other chains of nftables are looked at in every dataplane (`_node_checks`).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ..._kernel.iptables import Xtables
from ..._kernel.iptables_variant import legacy_tables
from ..._kernel.nft import Nft, NftError
from ..._kernel.process import Runner
from ..._model import addresses as ip
from ..._objects.iptables_text import XtablesError
from ..interface import Host
from .maps import NFT_FAMILIES

_TOOLS = {ip.IPV4: "iptables", ip.IPV6: "ip6tables"}
_TEXT = (
    "{tool}: the policy of FORWARD is DROP, and traffic of services may be among what it drops: let it pass, for instance by: "
    "{tool} -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"
)
_ACCEPTS = re.compile(
    r"^-A FORWARD( -m conntrack --ctstate \S*\bDNAT\b\S*)?( -m comment --comment .*)? -j ACCEPT$", re.M
)


class ForwardPolicy:
    """What the chains FORWARD of iptables do with packets that no rule of theirs takes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def droppers(self, family: str) -> list[str]:
        """Return the tools, of either variant, by whose rules translated packets are dropped; not where that cannot be read."""
        tools = ((self._nft_drops, _TOOLS[family]), (self._legacy_drops, _TOOLS[family] + "-legacy"))
        return [tool for drops, tool in tools if drops(family)]

    def _legacy_drops(self, family: str) -> bool:
        try:
            if "filter" not in legacy_tables(family):
                return False
            tool = Xtables(self._runner, family, variant="legacy").tool()
        except XtablesError:
            return False
        code, rules, dummy = self._runner.run([*tool, "-S", "FORWARD"])
        return code == 0 and rules.startswith("-P FORWARD DROP") and not _ACCEPTS.search(rules)

    def _nft_drops(self, family: str) -> bool:
        try:
            with Nft() as nft:
                chains = [one for one in nft.base_chains() if one.is_of_iptables and one.hook == "forward"]
        except NftError:
            return False
        name = NFT_FAMILIES[family]
        if not any((one.family, one.table, one.policy) == (name, "filter", "drop") for one in chains):
            return False
        code, rules, dummy = self._runner.run([_TOOLS[family], "-S", "FORWARD"])
        return code != 0 or not _ACCEPTS.search(rules)


def forward_policy(host: Host) -> ForwardPolicy:
    return ForwardPolicy(host.runner)


def closed_forward_warnings(host: Host, families: Collection[str]) -> list[str]:
    """Return one line for each family in which services answer and translated packets are dropped."""
    policy = host.facility(forward_policy)
    return [_TEXT.format(tool=tool) for family in ip.FAMILIES if family in families for tool in policy.droppers(family)]
