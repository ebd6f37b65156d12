# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dataplanes that there are, by name. Imports stand inside of the function: Ansible ships them to the managed host, and only
what is used is compiled there.
"""

# pylint: disable=import-outside-toplevel

from __future__ import annotations

from .._model.fields import quoted
from .._model.service import InvalidServices
from .interface import Dataplane, Presence

NAMES = ("iptables", "ipvs", "nftables")
DEFAULT = "iptables"
IMPLEMENTED = NAMES


def load(name: str) -> Dataplane:
    """Return the dataplane of a name. Raises InvalidServices for one that is not implemented."""
    if name == "iptables":
        from .iptables.dataplane import Iptables

        return Iptables()
    if name == "ipvs":
        from .ipvs.dataplane import Ipvs

        return Ipvs()
    if name == "nftables":
        from .nftables.dataplane import Nftables

        return Nftables()
    raise InvalidServices([f"dataplane is {quoted(name)}: not supported yet: must be {', '.join(IMPLEMENTED)}"])


def presence(name: str) -> Presence:
    """Return what tells whether a dataplane is in use, where that is a part that is compiled alone."""
    if name == "iptables":
        from .iptables.presence import IptablesPresence

        return IptablesPresence()
    if name == "ipvs":
        from .ipvs.presence import IpvsPresence

        return IpvsPresence()
    if name == "nftables":
        from .nftables.presence import NftablesPresence

        return NftablesPresence()
    return load(name)
