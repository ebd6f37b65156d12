# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The nodes that announce addresses together, from the variables of the inventory's hosts: all of the group, whether the run is about them or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.layer4.service_proxy.plugins.plugin_utils._overlay import hosts_together, own_address


class DifferentAnnouncements(ValueError):
    """Two nodes have different settings of one virtual router; the text is one line."""


def announcing_nodes(
    settings: Mapping[str, Any], host: str, variables: Mapping[str, Any], prefix: str
) -> list[dict[str, Any]]:
    """Return the nodes in the order of the inventory, this one included: name and address. Raises DifferentAnnouncements.

    settings: of this one, without the prefix. A host without a ``service_proxy_announce`` of its own takes part, since the task's
    variables may say it for all.
    """
    found = []
    for name in hosts_together(host, variables, prefix):
        of_host = variables["hostvars"][name]
        if name == host:
            found.append({"name": settings["name"], "address": settings["announce_address"]})
        elif of_host.get(prefix + "state") != "absent" and of_host.get(prefix + "announce", "vrrp") == "vrrp":
            _refuse_another_id(settings, host, name, of_host, prefix)
            address = own_address(of_host.get(prefix + "announce_address"), name, of_host)
            found.append({"name": str(of_host.get(prefix + "name") or name), "address": address})
    return found


def _refuse_another_id(
    settings: Mapping[str, Any], host: str, name: str, of_host: Mapping[str, Any], prefix: str
) -> None:
    theirs = of_host.get(prefix + "vrrp_id")
    if theirs is not None and str(theirs) != str(settings["vrrp_id"]):
        raise DifferentAnnouncements(
            f"{prefix}vrrp_id is {settings['vrrp_id']} on {host} and {theirs} on {name}: must be the same on all nodes"
        )
