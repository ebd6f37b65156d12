# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a node has anything of the nftables dataplane: all that a run of another one needs to know of it."""

from __future__ import annotations

from typing import Callable

from ..._kernel.nft import Nft, NftError, NoNftError
from ..._model.service import Node
from ..._objects.nftables_parts import NAME
from ..interface import Host


def table_names(dummy: Host) -> Callable[[], set[tuple[str, str]]]:
    """Return what reads family and name of all tables; it raises NftError."""

    def read() -> set[tuple[str, str]]:
        try:
            with Nft() as nft:
                return nft.tables()
        except NoNftError:
            return set()

    return read


class NftablesPresence:
    """The part of the dataplane that is asked in runs of others."""

    name = "nftables"
    takes_input = False
    uses_iptables = False
    errors: tuple[type[Exception], ...] = (NftError,)

    def in_use(self, host: Host, dummy: Node) -> bool:
        """Tell whether the node has a table of this dataplane."""
        return any(name == NAME for dummy_family, name in host.facility(table_names)())
