# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: trace
short_description: Simulate a connection to a node, offline
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Compiles services to the rules that M(layer4.service_proxy.vip_service) would set, and follows
    the first packet of a connection through them as the kernel would. Where a rule chooses at random, every branch is followed.
  - With O(dataplane=ipvs) it is followed through rules, ipsets and virtual services. What a scheduler does for one connection
    depends on those before, or on a hash, so that a chance is the share of connections in the long run, where they last alike.
  - It needs no host and no privileges, so that CI can assert what a change of the inventory does.
  - It considers these rules only. Rules of other programs, routes, and a C(FORWARD) policy other than ACCEPT are not seen.
options:
  _input:
    description:
      - The services of the node, as in C(services) of M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    required: true
  from:
    description:
      - Who connects. An IP address, V(node) for the node itself, or V(localhost) for the node by its loopback address.
      - With V(node) the source is the first of the node's C(addresses) in the family of O(to), or O(to) itself where that is
        one of them, or the loopback address where O(to) is one.
    type: str
    required: true
  to:
    description:
      - The IP address that is connected to.
    type: str
    required: true
  port:
    description:
      - The port that is connected to.
    type: int
    required: true
  protocol:
    description:
      - The transport protocol.
    type: str
    choices: [tcp, udp, sctp]
    default: tcp
  node:
    description:
      - The settings of the node, as in C(node) of M(layer4.service_proxy.vip_service). C(name) is needed where backends
        have a C(node).
      - There is no host to ask for its addresses, so that C(addresses) are just those that are given. Node ports are on these
        addresses, and a connection from one of them is the node's own.
    type: dict
    default: {}
  dataplane:
    description:
      - What carries the packets, as in C(dataplane) of M(layer4.service_proxy.vip_service).
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
seealso:
  - module: layer4.service_proxy.vip_service
  - plugin: layer4.service_proxy.render
    plugin_type: filter
"""

EXAMPLES = r"""
- name: A client outside reaches both backends, the first with three times the share, and they see the node's address
  ansible.builtin.assert:
    that:
      - met.verdict == 'accept'
      - met.backends | map(attribute='chance') == [0.75, 0.25]
      - met.snat == 'masquerade'
  vars:
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        backends:
          - {address: 10.0.0.11, port: 8080, weight: 3}
          - {address: 10.0.0.21, port: 8080}
    node: {name: node1, addresses: [192.0.2.1], local_cidrs: [10.0.0.0/16]}
    met: "{{ services | layer4.service_proxy.trace(from='192.0.2.100', to='172.20.0.115', port=80, node=node) }}"

- name: Outside the source ranges nobody reaches the load-balancer address, and the rules that say so
  ansible.builtin.debug:
    msg: "{{ met.verdict }}, by {{ met.rules | map(attribute='rule') | list | last }}"
  vars:
    services:
      - name: web
        load_balancer_ips: [203.0.113.10]
        source_ranges: [198.51.100.0/24]
        port: 80
        backends: [{address: 10.0.0.11}]
    met: "{{ services | layer4.service_proxy.trace(from='192.0.2.100', to='203.0.113.10', port=80, node={'name': 'node1'}) }}"
"""

RETURN = r"""
_value:
  description:
    - What the connection meets.
  type: dict
  contains:
    verdict:
      description:
        - V(accept) when it reaches one of the RV(_value.backends), V(reject) when it is refused at once, V(drop) when it is
          left to time out, V(not_ours) when no service takes it and it goes on as without this collection.
      type: str
    snat:
      description:
        - V(false) when the source address is kept, V(masquerade) when it becomes that of the outgoing interface, or the
          address that it becomes.
        - V(mixed) when it depends on the backend, see RV(_value.backends[].snat).
      type: raw
    affinity:
      description: Whether the client is remembered and comes back to the same backend while its timeout lasts.
      type: bool
    backends:
      description: The backends that a new client may reach, in numeric order. Empty unless RV(_value.verdict) is V(accept).
      type: list
      elements: dict
      contains:
        address:
          description: IP address.
          type: str
        port:
          description: Port.
          type: int
        chance:
          description: How likely it is chosen, 0 to 1, to six decimal places.
          type: float
        snat:
          description: As RV(_value.snat), for this backend.
          type: raw
    rules:
      description: The rules that take the packet, in order. Where chance decides, those of every way.
      type: list
      elements: dict
      contains:
        table:
          description: The table, or C(ipvs).
          type: str
        chain:
          description: The chain; empty where the table is C(ipvs).
          type: str
        rule:
          description:
            - The rule as C(iptables-save) prints it behind the name of its chain, or the virtual service or destination as
              C(ipvsadm -Sn) does.
          type: str
        chance:
          description: How likely it takes the packet, 0 to 1, to six decimal places.
          type: float
"""

from typing import Any, Callable

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import trace_services
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._filters import refusing_services


@refusing_services
def trace(services: Any, **connection: Any) -> dict[str, Any]:
    """The filter; its options are by name alone, as ``from`` is a word of Python's."""
    return trace_services(services, connection)


class FilterModule:
    """The filter `trace`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"trace": trace}
