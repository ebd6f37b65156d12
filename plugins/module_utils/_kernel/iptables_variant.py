# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which variant iptables is of, nft or legacy, and whether the other one holds rules."""

from __future__ import annotations

import re
from pathlib import Path

from .._objects.iptables_text import XtablesError, clean_message
from .iptables import Xtables

_LEGACY_TABLES = {"ipv4": Path("/proc/net/ip_tables_names"), "ipv6": Path("/proc/net/ip6_tables_names")}
_RULE_OR_POLICY = re.compile(r"^(-A |:\S+ DROP)", re.MULTILINE)


def is_legacy(tables: Xtables) -> bool:
    """Whether the host's iptables is of the legacy variant. Raises XtablesError when it is not installed or does not say."""
    code, version, stderr = tables.runner.run([*tables.tool(), "--version"])
    if code:
        raise XtablesError(tables.command, clean_message(stderr))
    return "nf_tables" not in version


def legacy_holds_rules(tables: Xtables) -> bool:
    """Whether tables of the legacy variant have a rule or a policy of DROP. Asks only for those that are in use: to ask for
    another would load it. Raises XtablesError where it cannot be told, as without a tool of that variant.
    """
    try:
        used = _LEGACY_TABLES[tables.family].read_text()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise XtablesError(
            tables.command, f"{_LEGACY_TABLES[tables.family]} cannot be read: {error.strerror}"
        ) from error
    if not used:
        return False
    name = tables.command + "-legacy-save"
    tool = tables.runner.find(name)
    if tool is None:
        raise XtablesError(name, "is not installed on this host: its tables cannot be read")
    code, saved, stderr = tables.runner.run([tool])
    if code:
        raise XtablesError(name, clean_message(stderr))
    return bool(_RULE_OR_POLICY.search(saved))
