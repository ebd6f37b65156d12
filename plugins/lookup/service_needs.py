# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: service_needs
short_description: What services ask of a node, and what is wrong with them
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Looks once through the services in a variable, for what the roles of this collection have to know of them.
  - It takes the name of a variable, because what is passed to a filter is templated before, which takes seconds for thousands of
    services. Where there is no template in them, they are taken as they are.
options:
  _terms:
    description:
      - The name of a variable that holds services, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: str
    required: true
  name:
    description:
      - The name of the node on which backends are looked for.
    type: str
    default: ''
  node:
    description:
      - The settings of the node, as in C(node) of M(layer4.service_proxy.vip_service). With them the services are validated.
    type: dict
  dataplane:
    description:
      - What will carry the packets, for validation.
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
seealso:
  - plugin: layer4.service_proxy.mistakes
    plugin_type: filter
"""

EXAMPLES = r"""
- name: See which schedulers of IPVS the services use
  ansible.builtin.assert:
    that: lookup('layer4.service_proxy.service_needs', 'services').schedulers == ['rr', 'wrr']
  vars:
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        scheduler: rr
      - name: dns
        vip: 172.20.0.53
        port: 53
        protocol: udp
"""

RETURN = r"""
_list:
  description:
    - Of each variable, what its services ask for.
  type: list
  elements: dict
  contains:
    ipv6:
      description: Whether there is an IPv6 address.
      type: bool
    schedulers:
      description: The schedulers of IPVS that are used.
      type: list
      elements: str
    forward_methods:
      description: The forward methods that are used.
      type: list
      elements: str
    backend_addresses:
      description: The addresses of backends that are on the node of that name.
      type: list
      elements: str
    mistakes:
      description: With O(node), one line for each mistake. Empty when all is well.
      type: list
      elements: str
"""

import json
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import find_errors
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import to_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.requirements import find_needs
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._services_variable import plain_text, resolved


class LookupModule(LookupBase):
    """The lookup `service_needs`."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
        """AnsibleLookupError when it is called wrongly."""
        self.set_options(var_options=variables, direct=options)
        try:
            return [self._needs(self._services(term, variables or {})) for term in terms]
        except (InvalidServices, TypeError) as error:
            raise AnsibleLookupError(str(error)) from None

    def _services(self, name: str, variables: dict[str, Any]) -> Any:
        if name not in variables:
            raise AnsibleLookupError(f"there is no variable {name!r}")
        value = variables[name]
        text = plain_text(resolved(value, variables))
        if text is None:
            text = to_text(self._templar.template(value))
        return json.loads(text)

    def _needs(self, services: Any) -> dict[str, Any]:
        needs = find_needs(services if isinstance(services, list) else [], self.get_option("name"))
        node = self.get_option("node")
        if node is not None:
            needs["mistakes"] = find_errors(services, {"node": node, "dataplane": self.get_option("dataplane")})
        return needs
