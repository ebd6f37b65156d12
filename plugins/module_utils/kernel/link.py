# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of the node's links, as the kernel has them now."""

from __future__ import annotations

import json
from typing import Callable, List, Sequence, Tuple

Run = Callable[[Sequence[str]], Tuple[int, str, str]]
"""Runs a command: its return code, standard output and standard error."""


class LinkError(Exception):
    """The addresses could not be read; the text is ip(8)'s own."""


def own_addresses(run: Run) -> List[str]:
    """The node's own unicast addresses that others can use: no loopback and no link-local ones."""
    code, out, err = run(["ip", "-json", "address", "show"])
    if code:
        raise LinkError("ip address show: %s" % err.strip())
    links = json.loads(out or "[]")
    found = [info for link in links for info in link.get("addr_info", ())]
    return [info["local"] for info in found if info.get("local") and info.get("scope") in ("global", "site")]
