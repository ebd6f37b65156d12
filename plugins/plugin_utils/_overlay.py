# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nodes of an overlay, from the variables of the inventory's hosts: of all of the group, whether the run is about them or not."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

_AGREED = ("overlay", "vxlan_id", "vxlan_port", "vxlan_networks")
"""What has to be the same on all nodes that set it."""


class DifferentOverlays(ValueError):
    """Two nodes have different settings of one overlay; the text is one line."""


def own_address(given: Any, host: str, variables: Mapping[str, Any]) -> list[str]:
    """Return the addresses of a node: those given, or else what Ansible connects to where that is an address."""
    return listed(given) or [
        str(one) for one in [variables.get("ansible_host") or host] if isinstance(one, str) and _is_address(one)
    ]


def other_nodes(
    settings: Mapping[str, Any], host: str, variables: Mapping[str, Any], prefix: str
) -> list[dict[str, Any]]:
    """Return the other nodes: name, address and cidrs. settings: of this one, without the prefix. Raises DifferentOverlays.

    A host without a ``service_proxy_overlay`` of its own takes part, since the task's variables may say it for all.
    """
    found = []
    for name in hosts_together(host, variables, prefix):
        if name == host:
            continue
        of_host = variables["hostvars"][name]
        if of_host.get(prefix + "state") == "absent" or of_host.get(prefix + "overlay") == "none":
            continue
        for key in _AGREED:
            theirs = of_host.get(prefix + key)
            if theirs is not None and _comparable(theirs) != _comparable(settings[key]):
                raise DifferentOverlays(
                    f"{prefix}{key} is {_shown(settings[key])} on {host} and {_shown(theirs)} on {name}: must be the same on all nodes"
                )
        found.append(
            {
                "name": str(of_host.get(prefix + "name") or name),
                "address": own_address(of_host.get(prefix + "overlay_address"), name, of_host),
                "cidrs": listed(of_host.get(prefix + "backend_cidrs")),
            }
        )
    return found


def hosts_together(host: str, variables: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the hosts of the group, or of the play where that is about hosts outside of the group; this one is among them."""
    group = [str(name) for name in variables["groups"].get(variables.get(prefix + "group") or "service_proxy", [])]
    return group if host in group else [str(name) for name in variables.get("ansible_play_hosts_all", [])]


def listed(value: Any) -> list[str]:
    """Return a list of texts as Ansible makes it of a variable: a text is a list, its parts behind commas."""
    if value is None:
        return []
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return [str(one).strip() for one in parts]


def _comparable(value: Any) -> list[str]:
    return sorted(listed(value))


def _shown(value: Any) -> str:
    return ", ".join(listed(value))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
