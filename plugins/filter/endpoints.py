# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: endpoints
short_description: List the backends of services
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Lists the address, port and protocol of the backends of services, each once.
  - The list is suitable for O(layer4.service_proxy.backend_connections_info#module:backends).
options:
  _input:
    description:
      - The services, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    required: true
  of:
    description:
      - Only backends that are selected here, each by its address, by address and port such as V(10.0.0.11:8080) or
        V([fd00::11]:8080), or by its C(node). Default are all.
    type: list
    elements: str
seealso:
  - plugin: layer4.service_proxy.drain
    plugin_type: filter
  - module: layer4.service_proxy.backend_connections_info
"""

EXAMPLES = r"""
- name: Every backend of node1
  ansible.builtin.assert:
    that: "(services | layer4.service_proxy.endpoints(of=['node1'])) == [{'address': '10.0.0.11', 'port': 8080, 'protocol': 'tcp'}]"
  vars:
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        backends:
          - {address: 10.0.0.11, port: 8080, node: node1}
          - {address: 10.0.0.21, port: 8080, node: node2}
"""

RETURN = r"""
_value:
  description:
    - In the order of addresses and ports. Each has C(address), C(port) and C(protocol).
  type: list
  elements: dict
"""

from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.drain import find_endpoints
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._filters import refusing_services


@refusing_services
def endpoints(services: Any, of: Any = None) -> list[dict[str, Any]]:
    """The filter."""
    return find_endpoints(services, of)


class FilterModule:
    """The filter `endpoints`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"endpoints": endpoints}
