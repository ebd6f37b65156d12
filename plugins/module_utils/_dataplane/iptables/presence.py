# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a node has anything of the iptables dataplane: all that a run of another one needs to know of it."""

from __future__ import annotations

from ..._kernel.nft import NftError
from ..._model.service import Node
from ..._objects.iptables import ChainKey
from ..._objects.iptables_text import XtablesError
from ..interface import Host
from ..netfilter.facilities import chain_presence
from ..netfilter.names import Layout
from ..netfilter.other_variant import Leftovers, leftovers

_OF_ROLES = ("BRIDGE", "BACKEND")
"""Chains that roles make with `nat_chain`; in the other variant of iptables nobody else would remove them."""


class IptablesPresence:
    """The part of the dataplane that is asked in runs of others."""

    name = "iptables"
    takes_input = False
    uses_iptables = True
    errors: tuple[type[Exception], ...] = (NftError, XtablesError)

    def in_use(self, host: Host, node: Node) -> bool:
        """Tell whether the node has chains of this dataplane, in whichever variant of iptables."""
        layout = Layout(node.chain_prefix)
        keys = [
            ("nat", layout.shared("SERVICES")),
            *(("filter", layout.shared(name)) for name in ("FIREWALL", "LOCALHOST")),
        ]
        return host.facility(chain_presence)(keys) or self.leftovers(host, node).changed

    def leftovers(self, host: Host, node: Node) -> Leftovers:
        """Return what is ours in the variant of iptables that is not this host's. Raises XtablesError."""
        layout = Layout(node.chain_prefix)
        of_roles = {layout.shared(name) for name in _OF_ROLES}

        def ours(key: ChainKey) -> bool:
            return layout.is_ours(key) or key[1] in of_roles

        return leftovers(host, node.chain_prefix, ours)
