# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of what the ipvs dataplane has in the kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..._model import addresses as ip
from ..._objects.iptables import ChainKey
from ..netfilter.names import Layout

NAT = "IPVS-"
"""What the names of chains of table nat begin with, so that the iptables dataplane can have its own beside them."""
_CHAINS: Sequence[ChainKey] = (
    *(("nat", NAT + name) for name in ("SERVICES", "POSTROUTING", "MARK-MASQ", "MARK-NONLOCAL")),
    *(("filter", name) for name in ("INPUT", "NEW", "OUTPUT", "REPLIES", "SOURCES")),
    ("mangle", "SOURCES"),
    ("raw", "ONE-WAY"),
)
SET_TYPES = {
    "VIP": "hash:ip,port",
    "EXTERNAL": "hash:ip,port",
    "LOCAL": "hash:ip,port",
    "REJECT": "hash:ip,port",
    "GUARDED": "hash:ip,port",
    "SOURCES": "hash:ip,port,net",
    "ONE-WAY": "hash:ip,port",
    "BOUND": "hash:ip",
    "LOOP-BACK": "hash:ip,port,ip",
}


class SetNames:
    """The names of our sets in one address family, under the prefix of our chains."""

    def __init__(self, prefix: str, family: str) -> None:
        self._start = prefix + ("-6-" if family == ip.IPV6 else "-")

    def __getitem__(self, what: str) -> str:
        return self._start + what


def set_names(prefix: str, which: Iterable[str] = tuple(SET_TYPES)) -> set[str]:
    """Every name that a set of this dataplane can have, or that these can."""
    return {SetNames(prefix, family)[what] for family in ip.FAMILIES for what in which}


def chain_keys(prefix: str) -> set[ChainKey]:
    """Return every chain that this dataplane may have."""
    layout = Layout(prefix)
    return {(table, layout.shared(name)) for table, name in _CHAINS}


def services_chain(prefix: str) -> ChainKey:
    """Return the chain of table nat that all service traffic comes to first."""
    return ("nat", Layout(prefix).shared(NAT + "SERVICES"))
