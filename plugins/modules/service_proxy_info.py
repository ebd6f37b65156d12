#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_proxy_info
version_added: 0.1.0
short_description: Report the services that this node's kernel holds
description:
  - Reads the services from the kernel, whoever changed them there last, with their backends and the share of new connections
    that each gets.
  - Also counts the rules, chains, sets and destinations that carry them.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  dataplane:
    description: The dataplanes to look at. Default are all that are supported.
    type: list
    elements: str
    choices: [iptables, ipvs, nftables]
    default: [iptables, ipvs, nftables]
  node:
    description:
      - Settings of this node, as M(layer4.service_proxy.vip_service) takes them. Only O(node.chain_prefix) matters here.
    type: dict
    default: {}
    suboptions:
      chain_prefix:
        description: What the names of our chains begin with, 1 to 8 characters of C(A-Z0-9).
        type: str
        default: L4
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes.info
seealso:
  - module: layer4.service_proxy.vip_service
"""

EXAMPLES = r"""
- name: Which services does this node have?
  layer4.service_proxy.service_proxy_info:
  register: proxy

- name: Every service has a backend
  ansible.builtin.assert:
    that: item.backends | length > 0
    fail_msg: "{{ item.name }} rejects its connections"
  loop: "{{ proxy.dataplanes.iptables.services }}"
  loop_control:
    label: "{{ item.name }}"
"""

RETURN = r"""
unhealthy:
  description: What health checks have found of backends, a line for each check that has failed, with the reason.
  returned: success
  type: list
  elements: str
  sample: ['tcp 10.0.0.11:8080: connection refused']
dataplanes:
  description: What was found, by the name of the dataplane.
  returned: success
  type: dict
  contains:
    iptables:
      description: What is in the chains of iptables and ip6tables.
      returned: when asked for
      type: dict
      contains:
        services:
          description: The services, in the order of their names.
          type: list
          elements: dict
          contains:
            name:
              description: The name.
              type: str
            protocol:
              description: The transport protocol.
              type: str
            port:
              description: The port on all addresses but those of the node. V(null) when there is only a node port.
              type: int
            vip:
              description: Virtual IPs that are led to backends.
              type: list
              elements: str
            external_ips:
              description: External IPs that are led to backends.
              type: list
              elements: str
            load_balancer_ips:
              description: Load-balancer IPs that are led to backends.
              type: list
              elements: str
            node_port:
              description: The port on the node's own addresses, or V(null).
              type: int
            backends:
              description: The backends that take new connections, IPv4 before IPv6.
              type: list
              elements: dict
              contains:
                address:
                  description: The IP address.
                  type: str
                port:
                  description: The port.
                  type: int
                share:
                  description:
                    - Its part of the new connections of its family that may reach every backend, from 0 to 1. V(null) when
                      there are none, because a traffic policy leads all connections to backends of this node.
                  type: float
                local_share:
                  description:
                    - Its part of those that a traffic policy leads to backends of this node. V(null) when there are none, or
                      when the backend is elsewhere.
                  type: float
            refusals:
              description:
                - What is refused, and where. When a service has no backends at all, its addresses are only found here, because
                  the kernel then holds nothing that would tell a virtual IP from another address.
              type: list
              elements: dict
              contains:
                address:
                  description: The address. V(null) for the node port.
                  type: str
                port:
                  description: The port.
                  type: int
                verdict:
                  description: V(reject) or V(drop).
                  type: str
                reason:
                  description: Why, in the words of the rule, such as C(no backends).
                  type: str
        counts:
          description: How much of the kernel they take, in both address families.
          type: dict
          contains:
            services:
              description: Services.
              type: int
            chains:
              description: Chains of ours.
              type: int
            rules:
              description: Rules in them.
              type: int
            sets:
              description: Ipsets of ours.
              type: int
            destinations:
              description: Chains that lead to one backend of one service.
              type: int
        unreadable:
          description: Why a tool could not be asked, by its name. What it would have told is not in the result.
          type: dict
          sample:
            ip6tables: 'ip6tables: is not installed on this host'
    ipvs:
      description:
        - What is in the ipsets of ours and in IPVS. C(name), C(protocol), C(port), C(vip), C(external_ips), C(load_balancer_ips),
          C(node_port), C(refusals) and C(unreadable) are as for C(iptables).
      returned: when asked for
      type: dict
      contains:
        services:
          description: The services, in the order of their names.
          type: list
          elements: dict
          contains:
            scheduler:
              description: The scheduler. V(null) when there is no virtual service, because there are no backends.
              type: str
            backends:
              description: The destinations, IPv4 before IPv6, each once for all addresses of the service.
              type: list
              elements: dict
              contains:
                address:
                  description: The IP address.
                  type: str
                port:
                  description: The port.
                  type: int
                weight:
                  description: The weight, V(0) when it takes no new connections.
                  type: int
                forward_method:
                  description: V(masquerade), V(direct) or V(tunnel).
                  type: str
                active_connections:
                  description: Connections that are open now.
                  type: int
                inactive_connections:
                  description: Connections that are closing, or that only wait to be forgotten, and all UDP flows.
                  type: int
        counts:
          description: How much of the kernel they take, in both address families.
          type: dict
          contains:
            services:
              description: Services.
              type: int
            virtual_services:
              description: Virtual services of ours in IPVS.
              type: int
            destinations:
              description: Their destinations.
              type: int
            sets:
              description: Ipsets of ours.
              type: int
            chains:
              description: Chains of ours.
              type: int
            rules:
              description: Rules in them, whose number does not depend on that of services.
              type: int
    nftables:
      description:
        - What is in the tables of ours. C(name), C(protocol), C(port), C(vip), C(external_ips), C(load_balancer_ips), C(node_port),
          C(refusals) and C(unreadable) are as for C(iptables), and so are C(address), C(port), C(share) and C(local_share) of a backend.
      returned: when asked for
      type: dict
      contains:
        services:
          description: The services, in the order of their names.
          type: list
          elements: dict
          contains:
            connections:
              description:
                - How many new connections have come to it, refused ones too, since it was made or changed, or the node was booted.
                  V(null) where the node does not count them (O(layer4.service_proxy.vip_service#module:node.counters)).
              type: int
            backends:
              description: The backends that take new connections, IPv4 before IPv6.
              type: list
              elements: dict
              contains:
                connections:
                  description: How many of them it has been given since the service's backends were changed, or V(null).
                  type: int
        counts:
          description: How much of the kernel they take, in both address families.
          type: dict
          contains:
            services:
              description: Services.
              type: int
            destinations:
              description: Backends, each once for a service.
              type: int
            elements:
              description: Elements of sets and maps.
              type: int
            sets:
              description: Sets and maps.
              type: int
            chains:
              description: Chains.
              type: int
            rules:
              description: Rules in them, whose number does not depend on that of services.
              type: int
"""

import platform
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.health_record import read_failed
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.host import ModuleHost
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import RunError, info
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.state import failed_lines
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import FileError
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices, parse_node


def _dataplanes(module: AnsibleModule) -> dict[str, Any]:
    given = module.params["node"].get("chain_prefix")
    node = parse_node({"name": platform.node(), **({"chain_prefix": given} if given is not None else {})})
    host = ModuleHost(module)
    return {name: info(name, node, host) for name in module.params["dataplane"]}


def main() -> None:
    names = list(registry.IMPLEMENTED)
    module = AnsibleModule(
        argument_spec={
            "dataplane": {"type": "list", "elements": "str", "choices": names, "default": names},
            "node": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        dataplanes = _dataplanes(module)
        unhealthy = failed_lines(read_failed())
    except InvalidServices as error:
        module.fail_json(msg=str(error), problems=error.problems)
    except (FileError, RunError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, unhealthy=unhealthy, dataplanes=dataplanes)


if __name__ == "__main__":
    main()
