#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vip_service
version_added: 0.1.0
short_description: Manage services with virtual IPs, load-balanced in this node's kernel
description:
  - Gives this node the listed services, as kube-proxy does for the Services of a cluster. A connection to a service's virtual
    IP, or to one of its other addresses, from this node or through it, reaches one of the service's backends.
  - One task manages all services of a node. All input is validated before anything is changed, and changes are applied
    in a single transaction per address family.
  - Only chains that carry O(node.chain_prefix) are changed, and jumps to them are put into the built-in chains. A jump
    stays where it is unless rules in front of it drop by default. Rules of other programs are left untouched.
  - With O(dataplane=ipvs) the addresses are on a dummy device C(l4-ipvs0), IPVS load-balances connections, and the number of
    rules does not depend on that of services. Virtual services that others made in IPVS stay as they are.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  services:
    description:
      - The services. With O(state=absent) only O(services[].name) is read.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Unique on the node. 1 to 63 characters of C(a-z0-9-.), starting and ending with a letter or digit.
        type: str
        required: true
      vip:
        description:
          - Virtual IPs, IPv4 and IPv6 together. They need to be on no interface. With O(dataplane=ipvs) they are put on one,
            and new connections to their other ports are rejected.
        type: list
        elements: str
        default: []
      port:
        description:
          - The port on O(services[].vip), O(services[].external_ips) and O(services[].load_balancer_ips), 1 to 65535.
            Required with O(state=present).
        type: int
      protocol:
        description: The transport protocol.
        type: str
        choices: [tcp, udp, sctp]
        default: tcp
      backends:
        description: Where the service is served. Without any backend that can be used, connections are rejected.
        type: list
        elements: dict
        default: []
        suboptions:
          address:
            description: The backend's IP address. It serves the service's addresses of its own family.
            type: str
            required: true
          port:
            description: The port it listens on. Default is O(services[].port).
            type: int
          weight:
            description: Its share of new connections is its weight over the sum of all. V(0) takes no new connections. 0 to 65535.
            type: int
            default: 1
          node:
            description: The inventory name of the node that it runs on. Traffic policies V(local) compare it with O(node.name).
            type: str
          ready:
            description: Whether it takes new connections.
            type: bool
            default: true
          serving:
            description: Whether it still serves. Default is O(services[].backends[].ready).
            type: bool
          terminating:
            description:
              - Whether it is about to go. Where no backend is ready, those that are both serving and terminating are used.
            type: bool
            default: false
          zone:
            description: Where it runs, such as a site or a rack. O(services[].traffic_distribution=prefer_zone) compares it with O(node.zone).
            type: str
          tier:
            description:
              - V(0) to V(9). A backend takes connections only while no usable one of a lower tier exists, so that higher tiers are
                spares.
            type: int
            default: 0
      node_port:
        description: The service is on this port of every address of the node, too.
        type: int
      external_ips:
        description: Further addresses that are routed to this node.
        type: list
        elements: str
        default: []
      load_balancer_ips:
        description: Addresses that an outer load balancer delivers to this node unchanged.
        type: list
        elements: str
        default: []
      source_ranges:
        description: Networks that may use O(services[].load_balancer_ips). Others are dropped. Empty means everyone.
        type: list
        elements: str
        default: []
      session_affinity:
        description:
          - With V(client_ip) a client that comes back within the timeout reaches the same backend, by whichever address
            of the service. Needs ipset in the kernel.
        type: str
        choices: [none, client_ip]
        default: none
      session_affinity_timeout:
        description: For how many seconds after its last new connection a client is remembered, 1 to 86400.
        type: int
        default: 10800
      internal_traffic_policy:
        description: Which backends O(services[].vip) reaches, all or those on this node.
        type: str
        choices: [cluster, local]
        default: cluster
      external_traffic_policy:
        description:
          - Which backends node port, external and load-balancer addresses reach, all or those on this node. With
            V(local) the client's address is kept.
        type: str
        choices: [cluster, local]
        default: cluster
      traffic_distribution:
        description:
          - Which of the usable backends take all connections, those of the node's zone or those on the node itself. Where there is
            none of these, all do. It is a preference within what the policies allow.
        type: str
        choices: [any, prefer_zone, prefer_node]
        default: any
      health_check:
        description:
          - How the node checks the backends. One that fails takes no new connections until it is back. Established connections
            stay, flows of UDP move. Without it backends are not checked.
          - The checker is a systemd service, which P(layer4.service_proxy.proxy#role) sets up. This module makes no checks, but
            reckons with what the checker has found.
        type: dict
        suboptions:
          type:
            description:
              - V(tcp) connects. V(http) and V(https) send C(GET) and look at the status of the answer; redirects are not
                followed, and certificates are not verified.
            type: str
            choices: [tcp, http, https]
            default: tcp
          port:
            description: The port that is checked. Default is the backend's.
            type: int
          path:
            description: What V(http) and V(https) ask for.
            type: str
            default: /
          status:
            description: The statuses that are good, each a number or a range. Default is V(200-399).
            type: list
            elements: raw
          interval:
            description: Seconds from one check to the next, up to a tenth less so that checks do not come all at once.
            type: int
            default: 5
          timeout:
            description: Seconds that a check may take in all.
            type: int
            default: 2
          rise:
            description: How many checks in a row bring a backend back.
            type: int
            default: 2
          fall:
            description: How many checks in a row take a backend out.
            type: int
            default: 3
          panic_threshold:
            description:
              - While the share of healthy backends, in percent, is not above this, checks are ignored and all are used. So with
                V(0) the last ones stay in use where all fail. Only backends that are ready and have a weight count.
              - V(null) means that checks are never ignored, so that a service without any healthy backend rejects.
            type: int
            default: 0
      scheduler:
        description:
          - The IPVS scheduler, such as V(rr), V(lc), V(sh) or V(mh). Default is V(wrr). Refused with O(dataplane=iptables), which
            chooses at random by weight.
          - V(sh) and V(mh) get their fallback flag as long as a backend takes no new connections.
        type: str
      forward_method:
        description:
          - How IPVS forwards. Only V(masquerade) with O(dataplane=iptables).
          - V(direct) and V(tunnel) hand packets on as they are. The backends need the service's addresses themselves, their port
            is the service's, and there is no node port.
        type: str
        choices: [masquerade, direct, tunnel]
        default: masquerade
  state:
    description:
      - With V(present) the services are as given. With V(absent) they are gone, and with O(exclusive=true) every service is.
      - With V(absent) the services go from whichever dataplane this node has.
      - With the last service all rules and chains of this module go. As long as translated TCP or SCTP connections live on,
        which the kernel would forget with them, the chains that serve all services stay, until a later run finds none;
        with both O(state=absent) and O(exclusive=true) they go at once.
    type: str
    choices: [present, absent]
    default: present
  exclusive:
    description: Whether O(services) are all services of this node, so that others, and whatever else stands in our chains, go.
    type: bool
    default: false
  dataplane:
    description:
      - What carries the packets. V(nftables) has tables of its own, C(l4-service-proxy) of the families ip and ip6, and needs neither
        iptables nor ipset; Linux 5.10 or newer.
      - A node has one dataplane. When it changes, all of its services have to be named, or O(exclusive=true) be set. What the
        other left goes once the new one serves. Connections that iptables had go on. Those that IPVS had are given
        O(node.drain_timeout) to end.
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
  node:
    description: Settings of this node. They serve all services, so give the same ones in all tasks for a node.
    type: dict
    default: {}
    suboptions:
      name:
        description: The node's name, as in O(services[].backends[].node). Default is C(inventory_hostname).
        type: str
      addresses:
        description: The node's own IP addresses. Default are those found on it, without loopback and link-local ones.
        type: list
        elements: str
      local_cidrs:
        description: Networks of local sources, whose traffic to a virtual IP keeps its source address. Empty means that all does.
        type: list
        elements: str
        default: []
      masquerade_all:
        description: Whether all traffic to virtual IPs is masqueraded.
        type: bool
        default: false
      node_port_addresses:
        description: Networks of those node addresses that have node ports. Empty means every address.
        type: list
        elements: str
        default: []
      localhost_node_ports:
        description: Whether node ports are on 127.0.0.0/8 too. Needs C(net.ipv4.conf.all.route_localnet). IPv4 only.
        type: bool
        default: false
      zone:
        description: Where the node is, as in O(services[].backends[].zone).
        type: str
      allow_management_port:
        description:
          - Whether a service may take the address and port by which this very run is connected over SSH, so that later ones
            cannot connect. Without it that is an error.
        type: bool
        default: false
      snat_address:
        description: The source address given to masqueraded traffic of its family. Default is that of the outgoing interface.
        type: str
      masquerade_mark:
        description: The bits of the packet mark that say masquerade, as C(value/mask) in hexadecimal.
        type: str
        default: '0x4000/0x4000'
      chain_prefix:
        description: What the names of our chains and ipsets begin with, 1 to 8 characters of C(A-Z0-9).
        type: str
        default: L4
      drop_invalid:
        description:
          - Whether packets from and to the services that conntrack calls invalid are dropped where they would be
            forwarded. Unrewritten they would reset connections. Not needed with C(net.netfilter.nf_conntrack_tcp_be_liberal).
        type: bool
        default: true
      counters:
        description:
          - Whether new connections are counted, by service and by backend, for M(layer4.service_proxy.service_proxy_info). Dataplane
            V(nftables), Linux 5.7 or newer. Turning it on or off makes the maps of services anew, in one transaction.
        type: bool
        default: false
      flow_offload:
        description:
          - Network devices between which established TCP connections of services pass by a flow table, past the rules of every table.
            Those on the way to clients and to backends, which have to be there. Dataplane V(nftables), on a kernel with C(nf_flow_table).
          - What rules of others would do to later packets of such a connection (drop, count, log, mark) is not done. UDP and SCTP stay as they are.
        type: list
        elements: str
        default: []
      backend_chains:
        description:
          - Whether each backend has a chain of its own, as with kube-proxy. Dataplane V(iptables).
          - With V(false) a service translates in its own chain. That is less than half the rules, and of the time and memory
            that they take, which counts where there are thousands of services. It needs C(xt_bpf) of the kernel. With
            O(services[].session_affinity=client_ip) backends have their chains nevertheless.
        type: bool
        default: true
      drain_timeout:
        description:
          - For how many seconds, 0 to 86400, a run waits for the TCP and SCTP connections of destinations that go from IPVS.
            Meanwhile these have weight 0. With V(0) they go at once, and their connections end.
        type: int
        default: 0
      conn_reuse_mode:
        description: C(net.ipv4.vs.conn_reuse_mode), 0 to 3. Default is what the kernel has.
        type: int
      expire_nodest_conn:
        description:
          - C(net.ipv4.vs.expire_nodest_conn), whether connections to a destination that is gone end at their next packet, and UDP
            flows move on, instead of being dropped in silence.
        type: bool
        default: true
      tcp_timeout:
        description: Seconds after which IPVS forgets an idle TCP connection. Default is what the kernel has.
        type: int
      tcpfin_timeout:
        description: The same for a TCP connection of which one end is closed.
        type: int
      udp_timeout:
        description: The same for UDP.
        type: int
  payload:
    description:
      - What O(services) are turned into on the controller when they are many, to travel as one text and only to nodes that do
        not have them. It is the collection's own. Give O(services) instead.
    type: dict
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes
notes:
  - Warns, before anything is applied and without any part in RV(ignore:changed), of what would keep services from working on
    this node. That is a chain of nftables that is not ours and drops service traffic, rules in both variants of iptables,
    forwarding, bridge netfilter or C(route_localnet) being off where services need it, a strict reverse path filter where
    answers leave by another interface, service addresses that the node has no route to, ports of the node that a service takes from
    a program that listens there, and a connection tracking table that is
    more than nine tenths full. What cannot be read is not warned of.
  - Runs on the same host take turns, each network namespace for itself. One that waits for another longer than eleven minutes fails
    (a tool that hangs is killed after ten). Checks do not wait.
requirements:
  - iptables and ip6tables 1.8 or newer (nft or legacy variant), each when there are services of its family
  - ip (iproute2)
  - ipset in the kernel, when a service has O(services[].session_affinity=client_ip)
  - connection tracking over netlink in the kernel (nf_conntrack_netlink), when a service has O(services[].protocol=udp)
  - with O(dataplane=ipvs), in the kernel, IPVS (ip_vs), the schedulers that services use (ip_vs_rr and so on), dummy devices and ipset
seealso:
  - module: layer4.service_proxy.nat_chain
  - module: layer4.service_proxy.ipset_entry
"""

EXAMPLES = r"""
- name: A service on two backends, one of them with three times the share
  layer4.service_proxy.vip_service:
    services:
      - name: octopus-web
        vip: 172.20.0.115
        port: 80
        backends:
          - {address: 10.179.18.8, port: 8080, weight: 3}
          - {address: 10.179.18.29, port: 8080}
        node_port: 30080
    node:
      local_cidrs: [10.179.18.0/24]

- name: These are all services of this node, in both address families
  layer4.service_proxy.vip_service:
    exclusive: true
    services:
      - name: dns
        vip: [10.96.0.10, 'fd00:96::a']
        port: 53
        protocol: udp
        backends:
          - address: 10.0.0.11
          - address: 'fd00:10::11'

- name: A service goes
  layer4.service_proxy.vip_service:
    services:
      - name: dns
    state: absent
"""

RETURN = r"""
added:
  description: Names of services that this node did not have.
  returned: success
  type: list
  elements: str
  sample: [octopus-web]
updated:
  description: Names of services that this node had, and whose rules change.
  returned: success
  type: list
  elements: str
  sample: []
removed:
  description: Names of services that go.
  returned: success
  type: list
  elements: str
  sample: []
conntrack_deleted:
  description:
    - How many UDP flows lost their entry in connection tracking, so that their next packet is led anew, because they were led
      to a backend that is no longer used, to none though there is one now, or to a service that is gone. In check mode, how many would
      at this moment. It has no part in RV(ignore:changed).
  returned: success
  type: int
  sample: 0
unhealthy:
  description:
    - Backends that take no new connections because of O(services[].health_check), a line for each. They have no part in
      RV(ignore:changed).
  returned: success
  type: list
  elements: str
  sample: ['web: 10.0.0.11:8080 is out: tcp check: connection refused']
diff:
  description:
    - The lines that change, as C(iptables-save), C(ipset save) and C(ipvsadm -Sn) print them, and as C(sysctl -p) and C(ip -batch) take
      them, each part under the name of its tool.
  returned: success
  type: dict
  contains:
    before:
      description: Lines that go.
      type: str
    after:
      description: Lines that come.
      type: str
"""

import gc
from contextlib import nullcontext

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.service_run import (
    SERVICE_ERRORS,
    converge_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import exclusive_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices


def main() -> None:
    gc.disable()  # a short life with hundreds of thousands of values that are no cycles: half of its time otherwise
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "dict", "default": []},
            "state": {"choices": ["present", "absent"], "default": "present"},
            "exclusive": {"type": "bool", "default": False},
            "dataplane": {"choices": list(registry.NAMES), "default": registry.DEFAULT},
            "node": {"type": "dict", "default": {}},
            "payload": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    request = Request(given["state"], given["services"], given["exclusive"], given["dataplane"])
    try:
        with nullcontext() if module.check_mode else exclusive_run():
            result = converge_services(module, request, given["node"], given["payload"] or {}).result
    except InvalidServices as error:
        module.fail_json(msg=str(error), problems=error.problems)
    except SERVICE_ERRORS as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
