# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: drain
short_description: Set the weight of backends to 0 in a list of services
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Returns the services with the weight of the selected backends set to 0, so that these get no new connections and keep
    their established ones.
  - Services that have none of these backends are returned unchanged.
positional: backends
options:
  _input:
    description:
      - The services, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    required: true
  backends:
    description:
      - What is to be taken out, each an address, an address and port such as V(10.0.0.11:8080) or V([fd00::11]:8080), or the
        C(node) of backends. What selects no backend does nothing.
    type: list
    elements: str
    required: true
seealso:
  - module: layer4.service_proxy.vip_service
  - plugin: layer4.service_proxy.endpoints
    plugin_type: filter
"""

EXAMPLES = r"""
- name: The rules while all backends of node1 are taken out
  ansible.builtin.debug:
    msg: "{{ (services | layer4.service_proxy.drain(['node1']) | layer4.service_proxy.render(node={'name': 'node2'})).splitlines() }}"
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
    - The services, in their order.
  type: list
  elements: dict
"""

from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.drain import drain_backends
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._filters import refusing_services


@refusing_services
def drain(services: Any, backends: Any) -> list[Any]:
    """The filter."""
    return drain_backends(services, backends)


class FilterModule:
    """The filter `drain`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"drain": drain}
