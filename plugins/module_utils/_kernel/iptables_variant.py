# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which variant iptables is of, nft or legacy, and the tools of the other one."""

from __future__ import annotations

from pathlib import Path

from .._objects.iptables import COMMANDS
from .._objects.iptables_text import XtablesError, clean_message
from .iptables import NFT_FAMILIES, NoXtablesError, Xtables
from .nft import Nft, NoNftError
from .nft import has_chain as nft_has_chain

_LEGACY_TABLES = {"ipv4": Path("/proc/net/ip_tables_names"), "ipv6": Path("/proc/net/ip6_tables_names")}


def is_legacy(tables: Xtables) -> bool:
    """Tell whether the host's iptables is of the legacy variant. Raises XtablesError when it is not installed or does not say."""
    if tables.is_nft or tables.is_legacy:
        return tables.is_legacy
    code, version, stderr = tables.runner.run([*tables.tool(), "--version"])
    if code:
        raise XtablesError(tables.command, clean_message(stderr))
    return "nf_tables" not in version


def legacy_tables(family: str) -> list[str]:
    """Return the tables of the legacy variant that are in use: to ask its tools for another would load it. Raises XtablesError."""
    path = _LEGACY_TABLES[family]
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise XtablesError(COMMANDS[family], f"{path} cannot be read: {error.strerror}") from error


def other_variant(tables: Xtables) -> Xtables | None:
    """Return the tools of the variant that this host's iptables is not of; None where it has no tables in use.

    Raises XtablesError, NoXtablesError when iptables is not installed, and NftError.
    """
    legacy = is_legacy(tables)
    if not (_nft_is_used(tables.family) if legacy else legacy_tables(tables.family)):
        return None
    return Xtables(tables.runner, tables.family, variant="nft" if legacy else "legacy")


def has_chain(tables: Xtables, table: str, chain: str) -> bool:
    """Tell whether either variant has a chain. Raises NftError, and XtablesError where the legacy variant cannot be read."""
    if nft_has_chain(NFT_FAMILIES[tables.family], table, chain):
        return True
    if table not in legacy_tables(tables.family):
        return False
    try:
        return Xtables(tables.runner, tables.family, variant="legacy").list_chain(table, chain) is not None
    except NoXtablesError:
        return False


def _nft_is_used(family: str) -> bool:
    """Whether iptables-nft's tables have a rule, or a policy of drop. Raises NftError."""
    try:
        with Nft() as nft:
            own = [one for one in nft.base_chains() if one.family == NFT_FAMILIES[family] and one.is_of_iptables]
    except NoNftError:
        return False
    return any(chain.used or chain.policy == "drop" for chain in own)
