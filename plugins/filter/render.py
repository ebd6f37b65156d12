# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: render
short_description: Return the rules of a node as text, offline
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Compiles services to the rules that M(layer4.service_proxy.vip_service) would set, as text, for review in a merge request.
    With O(dataplane=ipvs) these are ipsets, rules, virtual services and addresses.
  - The text is what the module shows as C(diff.after) on a node that has no service yet. Chains are sorted, and a change of one
    service changes no line of another, so that the difference of two texts is what a reviewer needs to see.
options:
  _input:
    description:
      - The services of the node, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    required: true
  node:
    description:
      - The settings of the node, as in C(node) of M(layer4.service_proxy.vip_service). C(name) is needed where backends
        have a C(node).
      - There is no host to ask for its addresses, so that C(addresses) are just those that are given.
    type: dict
    default: {}
  dataplane:
    description: What carries the packets.
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
  ip_version:
    description:
      - The rules of which address family. V(ipv4) and V(ipv6) give them as C(iptables-restore --noflush) and C(ip6tables-restore
        --noflush) take them. Where they use ipsets, for session affinity, these have to be there.
      - The text of V(both), and every text with O(dataplane=ipvs), has the name of its tool before each part.
    type: str
    choices: [ipv4, ipv6, both]
    default: both
seealso:
  - module: layer4.service_proxy.vip_service
  - plugin: layer4.service_proxy.trace
    plugin_type: filter
"""

EXAMPLES = r"""
- name: The rules of a node
  ansible.builtin.debug:
    msg: "{{ (services | layer4.service_proxy.render(node={'name': 'node1', 'local_cidrs': ['10.0.0.0/16']})).splitlines() }}"
  vars:
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        backends:
          - {address: 10.0.0.11, port: 8080}
          - {address: 10.0.0.21, port: 8080}
"""

RETURN = r"""
_value:
  description:
    - The rules, empty without services. With O(ip_version=both) the parts begin with C(# iptables), C(# ip6tables) and C(# ipset).
      With O(dataplane=ipvs) there are C(# ipvsadm), as C(ipvsadm --restore) takes it, and C(# ip -batch), too.
  type: str
"""

from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._filters import refusing_services


@refusing_services
def render(services: Any, **options: Any) -> str:
    """The filter."""
    return render_services(services, options)


class FilterModule:
    """The filter `render`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"render": render}
