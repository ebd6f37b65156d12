#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backend_connections_info
version_added: 0.1.0
short_description: Count the connections from this node to backends
description:
  - Counts the connections that this node's kernel translates to backends, from its connection tracking. Connections to a
    backend's own address that are merely routed are not counted.
  - Can wait until there are none, for instance before a drained backend is switched off.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  backends:
    description: Where the backends serve. The filter P(layer4.service_proxy.endpoints#filter) makes this list of services.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: The IP address.
        type: str
        required: true
      port:
        description: The port, 1 to 65535.
        type: int
        required: true
      protocol:
        description:
          - The transport protocol. A flow of UDP counts until connection tracking forgets it, which is up to two minutes after its
            last packet.
        type: str
        choices: [tcp, udp, sctp]
        default: tcp
  wait:
    description:
      - For how many seconds at most to wait until no connection is left. In check mode there is no waiting.
    type: int
    default: 0
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes.info
requirements:
  - connection tracking over netlink in the kernel (nf_conntrack_netlink)
seealso:
  - module: layer4.service_proxy.vip_service
  - plugin: layer4.service_proxy.endpoints
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Give connections half a minute to end
  layer4.service_proxy.backend_connections_info:
    backends:
      - {address: 10.0.0.11, port: 8080}
    wait: 30
  register: connections

- name: None is left
  ansible.builtin.assert:
    that: connections.total == 0
"""

RETURN = r"""
backends:
  description: The backends, in the order in which they were given.
  returned: success
  type: list
  elements: dict
  contains:
    address:
      description: The IP address.
      type: str
    port:
      description: The port.
      type: int
    protocol:
      description: The transport protocol.
      type: str
    connections:
      description: How many connections are left.
      type: int
total:
  description: How many connections are left to all of them.
  returned: success
  type: int
  sample: 0
waited:
  description: For how many seconds connections were waited for.
  returned: success
  type: float
  sample: 12.1
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.conntrack import Conntrack, ConntrackError
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import canonical_address
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.count import Destination
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.connections.wait import wait_until_gone


def _destinations(given: list[dict[str, Any]]) -> list[Destination]:
    """Raises ValueError, with the address that is none."""
    return [Destination(canonical_address(one["address"]), one["port"], one["protocol"]) for one in given]


def main() -> None:
    backend = {
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "protocol": {"type": "str", "choices": ["tcp", "udp", "sctp"], "default": "tcp"},
    }
    module = AnsibleModule(
        argument_spec={
            "backends": {"type": "list", "elements": "dict", "options": backend, "required": True},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        backends = _destinations(module.params["backends"])
        left = wait_until_gone(backends, Conntrack(), 0 if module.check_mode else module.params["wait"])
    except ValueError as error:
        module.fail_json(msg=f'backends: address is "{error}": must be an IPv4 or IPv6 address')
    except ConntrackError as error:
        module.fail_json(msg=str(error))
    told = [{**backend._asdict(), "connections": count} for backend, count in zip(backends, left.counts)]
    module.exit_json(changed=False, backends=told, total=sum(left.counts), waited=left.seconds)


if __name__ == "__main__":
    main()
