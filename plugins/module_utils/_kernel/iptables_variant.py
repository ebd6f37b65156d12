# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which back end iptables is of, and what the other one holds."""

from __future__ import annotations

import re
from pathlib import Path

from .iptables import Xtables

_LEGACY_TABLES = {"ipv4": Path("/proc/net/ip_tables_names"), "ipv6": Path("/proc/net/ip6_tables_names")}
_RULE_OR_POLICY = re.compile(r"^(-A |:\S+ DROP)", re.MULTILINE)


def is_legacy(tables: Xtables) -> bool:
    """Whether the host's iptables is of the legacy back end. Raises XtablesError when it is not installed."""
    code, version, _stderr = tables.runner.run([*tables.tool(), "--version"])
    return code == 0 and "nf_tables" not in version


def legacy_holds_rules(tables: Xtables) -> bool:
    """Whether tables of the legacy back end have a rule or a policy of DROP. Asks only for those that are in use: to ask for
    another would load it. False, too, where there is no tool of that back end.
    """
    try:
        used = _LEGACY_TABLES[tables.family].read_text()
    except OSError:
        return False
    tool = tables.runner.find(tables.command + "-legacy-save")
    if not used or tool is None:
        return False
    return bool(_RULE_OR_POLICY.search(tables.runner.run([tool])[1]))
