# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: validate
short_description: What is wrong with services, without a node
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Validates services and the settings of a node as M(layer4.service_proxy.vip_service) does before it touches anything.
  - The playbook C(layer4.service_proxy.site) starts with it, so that an error is reported before any role has acted.
options:
  _input:
    description:
      - The services of the node, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    required: true
  node:
    description:
      - The settings of the node, as in C(node) of M(layer4.service_proxy.vip_service).
    type: dict
    default: {}
  dataplane:
    description:
      - What will carry the packets.
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
seealso:
  - module: layer4.service_proxy.vip_service
  - plugin: layer4.service_proxy.render
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Refuse a merge request with wrong services
  ansible.builtin.assert:
    that: "services | layer4.service_proxy.validate(node={'name': 'node1'}) == []"
  vars:
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        backends:
          - {address: 10.0.0.11, port: 8080}
"""

RETURN = r"""
_value:
  description:
    - One line for each error, with the service, the key, the value and what is allowed. Empty when all is well.
  type: list
  elements: str
"""

from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import find_errors
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._filters import refusing_services


@refusing_services
def validate(services: Any, **options: Any) -> list[str]:
    """The filter. AnsibleFilterError when it is called wrongly."""
    return find_errors(services, options)


class FilterModule:
    """The filter `validate`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"validate": validate}
