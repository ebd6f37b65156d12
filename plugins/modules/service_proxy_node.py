#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_proxy_node
version_added: 0.2.0
short_description: Prepare a host and give it its services, in one call
description:
  - Does what the roles of this collection do on a node. It loads kernel modules and sets sysctls, sets the modes of bridges, the
    rules for bridges and backends, the ways to backends of other nodes, and the services as
    M(layer4.service_proxy.vip_service) does, now and at boot. It has keepalived or BIRD announce the addresses of services.
  - An option that is not given is taken from the variable of its name with the prefix C(service_proxy_), as in
    C(service_proxy_local_cidrs). A variable with that prefix that no option has is refused.
  - All options are validated before anything is changed. With O(state=absent) the node becomes as it was found.
  - Packages are not installed. Where a command is missing nothing is changed, and RV(missing_packages) names what has to be installed. In
    check mode what does not depend on the missing commands is predicted.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  parts:
    description:
      - What is done, by the names of the roles that do it alone.
    type: list
    elements: str
    choices: [node, bridge, backend, overlay, proxy, announce]
    default: [node, bridge, backend, overlay, proxy, announce]
  validate_only:
    description:
      - Validate the options on the controller, without connecting to the node.
    type: bool
    default: false
  drain:
    description:
      - A backend that gets no new connections from now on, until O(undrain). It is written as its address, as its address and port, or as
        the C(node) of backends. All else stays what the node was last asked for, whatever the other options are.
    type: str
  undrain:
    description:
      - A backend that was drained, in the same words. All else stays what the node was last asked for.
    type: str
  withdrawal:
    description:
      - What the node is to do about the addresses that it announces. All else stays what the node was last asked for. It stays so for later
        runs, and after a boot, until V(end).
      - With V(begin) routers are asked to prefer other nodes (GRACEFUL_SHUTDOWN, RFC 8326); with VRRP another node takes the addresses
        over. With V(complete) nothing is announced. With V(end) all is announced again.
    type: str
    choices: [begin, complete, end]
  drain_seconds:
    description:
      - For how many seconds at most a run with O(withdrawal) waits until no new connections come to the announced addresses, and with
        V(complete) until no connections are left. In check mode there is no waiting.
    type: int
    default: 0
  generation:
    description:
      - The number of a generation that is kept on the node, to go back to. The node is asked for what it was asked for then, services,
        settings and drained backends, whatever the other options are. That is a run like any other, and makes a generation of its own.
      - The ten last generations are kept. C(layer4-service-proxy generations) on the node lists them.
    type: int
  services:
    description:
      - The services, as in M(layer4.service_proxy.vip_service).
    type: list
    elements: dict
    default: []
  state:
    description:
      - With V(absent) every service of the node goes, and all that belongs to them.
    type: str
    choices: [present, absent]
    default: present
  dataplane:
    description:
      - What carries the packets.
    type: str
    choices: [iptables, ipvs, nftables]
    default: iptables
  exclusive:
    description:
      - Whether O(services) are all services of this node, so that others go.
    type: bool
    default: true
  drained:
    description:
      - Backends that take no new connections for as long as they stand here, by address, by address and port, or by
        their C(node). Those that the playbook C(drain) has drained come on top.
    type: list
    elements: str
    default: []
  name:
    description:
      - The node's name, as in the C(node) of backends.
    type: str
  addresses:
    description:
      - The node's own IP addresses. Those found on it, if not given.
    type: list
    elements: str
  local_cidrs:
    description:
      - Networks of local sources, whose traffic to a virtual IP keeps its source address. Empty means that all does.
    type: list
    elements: str
    default: []
  masquerade_all:
    description:
      - Whether all traffic to virtual IPs is masqueraded.
    type: bool
    default: false
  node_port_addresses:
    description:
      - Networks of those node addresses that have node ports. Empty means every address.
    type: list
    elements: str
    default: []
  localhost_node_ports:
    description:
      - Whether node ports are on 127.0.0.0/8 too. The role P(layer4.service_proxy.node#role) sets the sysctl that it
        needs.
    type: bool
    default: false
  zone:
    description:
      - Where the node is, such as a site or a rack. Services with C(traffic_distribution) V(prefer_zone) use backends of this zone first.
    type: str
  allow_management_port:
    description:
      - Whether a service may take the address and port by which this very run is connected over SSH, so that later ones
        cannot connect. Without it that is an error.
    type: bool
    default: false
  snat_address:
    description:
      - The source address that masqueraded traffic gets. That of the outgoing interface, if not given.
    type: str
  masquerade_mark:
    description:
      - The bits of the packet mark that say masquerade, as value and mask.
    type: str
    default: 0x4000/0x4000
  chain_prefix:
    description:
      - What the names of our chains begin with, 1 to 8 characters of C(A-Z0-9). Before it is changed, the rules with
        the old one have to go (O(state=absent)).
    type: str
    default: L4
  drop_invalid:
    description:
      - Whether packets from backends and to services that conntrack calls invalid are dropped rather than forwarded.
        Not needed where C(net.netfilter.nf_conntrack_tcp_be_liberal) is set.
    type: bool
    default: true
  counters:
    description:
      - Whether new connections are counted, by service and by backend, for M(layer4.service_proxy.service_proxy_info). Dataplane
        V(nftables), Linux 5.7 or newer.
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
      - Whether each backend has a chain of its own, as with kube-proxy. V(false) is less than half the rules, and of
        the time and memory that they take, for thousands of services; it needs C(xt_bpf) of the kernel. Dataplane
        V(iptables).
    type: bool
    default: true
  drain_timeout:
    description:
      - For how many seconds at most a run waits for the TCP and SCTP connections of backends that go, which have weight
        0 meanwhile. Dataplane V(ipvs) only.
    type: int
    default: 0
  conn_reuse_mode:
    description:
      - What IPVS does with a new connection from an address and port that it still remembers
        (C(net.ipv4.vs.conn_reuse_mode)), V(0) to V(3). Left alone if not given.
    type: int
  expire_nodest_conn:
    description:
      - Whether IPVS ends connections to a destination that is gone at their next packet, so that UDP flows move on,
        instead of dropping it in silence (C(net.ipv4.vs.expire_nodest_conn)). Dataplane V(ipvs) only, as are the four
        below.
    type: bool
    default: true
  tcp_timeout:
    description:
      - After how many seconds IPVS forgets an idle TCP connection. Left alone if not given.
    type: int
  tcpfin_timeout:
    description:
      - The same for a TCP connection of which one end is closed.
    type: int
  udp_timeout:
    description:
      - The same for UDP.
    type: int
  backend_cidrs:
    description:
      - Networks of the backends on this node. O(local_cidrs), if not given.
    type: list
    elements: str
  bridges:
    description:
      - The bridges, which exist already. If not given, all bridges that have an address inside O(local_cidrs), with
        their ports in hairpin mode.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the bridge device.
        type: str
        required: true
      mode:
        description:
          - How a backend behind the bridge reaches itself through a service. V(hairpin) is a mode of the bridge's
            ports. V(promiscuous) puts the bridge into promiscuous mode, too. V(none) leaves the bridge as it is.
        type: str
        choices: [promiscuous, hairpin, none]
        default: hairpin
      ports:
        description:
          - The ports to put into hairpin mode. If not given, all ports of the bridge but network cards and what stands
            on one.
        type: list
        elements: str
  overlay:
    description:
      - How backends of other nodes are reached, which are in their O(backend_cidrs). With V(routes) by their node's address, which
        must be in a network that the nodes have in common. With V(vxlan) through a tunnel to their node, the device C(l4-vxlan0), over
        whatever network there is between the nodes. With V(none) that is left to others.
      - Routes of others stay as they are. One of table C(main) to the networks of a node is an error.
    type: str
    choices: [none, routes, vxlan]
    default: none
  overlay_address:
    description:
      - The node's own address by which other nodes reach it, of each family that backends need. If not given, C(ansible_host) where that is
        an address.
    type: list
    elements: str
  overlay_nodes:
    description:
      - The other nodes. If not given, the hosts of the inventory's group (C(service_proxy_group)), or of the play where this node is not in
        that group.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The node's name, as in the C(node) of backends.
        type: str
        required: true
      address:
        description:
          - Its O(overlay_address).
        type: list
        elements: str
      cidrs:
        description:
          - Its O(backend_cidrs).
        type: list
        elements: str
  vxlan_id:
    description:
      - The VXLAN network identifier, the same on all nodes, V(1) to V(16777215).
    type: int
    default: 4004
  vxlan_port:
    description:
      - The UDP port of the tunnel, the same on all nodes. Firewalls between the nodes, and on them, must let it pass.
    type: int
    default: 4789
  vxlan_mtu:
    description:
      - The MTU of C(l4-vxlan0). If not given, that of the interfaces by which other nodes are reached, less 50 for IPv4 or 70 for IPv6.
    type: int
  vxlan_networks:
    description:
      - A network of each family, the same on all nodes, of which each C(l4-vxlan0) has an address, by the last bits of O(overlay_address).
        Traffic that a node masquerades has it as its source, so that the answers come back through the tunnel.
    type: list
    elements: str
    default: [169.254.0.0/16, "fd4c:3400::/64"]
  announce:
    description:
      - How the network outside finds a node for the addresses of services, which are their C(external_ips) and C(load_balancer_ips). With
        V(vrrp) keepalived has one of the nodes hold the addresses. With V(bgp) BIRD announces them to routers, each node by itself. With
        V(none) that is left to others.
      - A node announces an address while it has usable backends for what is at it, those of its own where C(external_traffic_policy) is
        C(local).
    type: str
    choices: [none, vrrp, bgp]
    default: none
  announce_vips:
    description:
      - Whether the virtual IPs of services are announced, too.
    type: bool
    default: false
  announce_address:
    description:
      - The node's own address, one of each family at most, to which the other nodes send VRRP, and from which the node speaks BGP. If not
        given, C(ansible_host) where that is an address, for VRRP, and what the routes to a router ask for, for BGP.
    type: list
    elements: str
  announce_nodes:
    description:
      - The nodes that announce the same addresses by VRRP, in the order of their priorities. If not given, the hosts of the inventory's
        group (C(service_proxy_group)) in its order, or those of the play where this node is not in that group.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The node's name, as in the C(node) of backends.
        type: str
        required: true
      address:
        description:
          - Its O(announce_address).
        type: list
        elements: str
  vrrp_interface:
    description:
      - The interface that gets the addresses. If not given, the one that has O(announce_address).
    type: str
  vrrp_id:
    description:
      - The number of the virtual router, V(1) to V(255), the same on all nodes. Each address of a service with a local policy is a router
        of its own, with a number that is made of this one and of the address.
    type: int
    default: 51
  bgp_asn:
    description:
      - The number of the node's autonomous system.
    type: int
  bgp_neighbors:
    description:
      - The routers to which addresses are announced. A router learns those of its address's family.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description:
          - Its IP address.
        type: str
        required: true
      asn:
        description:
          - The number of its autonomous system.
        type: int
        required: true
      bfd:
        description:
          - Whether it is watched, and watches, by BFD, so that each notices within a second that the other is gone.
        type: bool
        default: false
  install_packages:
    description:
      - Whether the packages of missing tools are installed. If not, a missing tool is an error.
    type: bool
    default: true
  bridge_netfilter:
    description:
      - Whether traffic between the ports of a bridge passes iptables (C(net.bridge.bridge-nf-call-iptables) and
        C(net.bridge.bridge-nf-call-ip6tables)). If not given, it does where there is a bridge of O(bridges).
    type: bool
  ipv6_forwarding:
    description:
      - Whether C(net.ipv6.conf.all.forwarding) is set. If not given, it is where a service, a backend or a local
        network is IPv6. A host that has its default route from router advertisements loses it by that.
    type: bool
  conntrack_max:
    description:
      - How many connections the kernel tracks at most (C(net.netfilter.nf_conntrack_max)). Left alone if not given.
    type: int
  conntrack_tcp_timeout_established:
    description:
      - For how many seconds an idle TCP connection is tracked. Left alone if not given.
    type: int
  conntrack_tcp_timeout_close_wait:
    description:
      - For how many seconds a TCP connection in CLOSE_WAIT is tracked. Left alone if not given.
    type: int
  save_rules:
    description:
      - Whether the rules are saved and, where systemd runs, restored at boot.
    type: bool
    default: true
  reapply:
    description:
      - Whether the rules are brought back within seconds after someone else has flushed them, such as a firewall that
        was reloaded. Needs O(save_rules) and systemd.
    type: bool
    default: false
  payload:
    description:
      - What O(services) are turned into on the controller, to travel as one text. It is the collection's own. Give O(services) instead.
    type: dict
  code:
    description:
      - The collection's code for the node, packed on the controller. It is the collection's own.
    type: str
  is_known:
    description:
      - Whether a service of the inventory has the backend of O(drain) or O(undrain). It is the collection's own.
    type: bool
    default: false
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes
seealso:
  - module: layer4.service_proxy.vip_service
"""

EXAMPLES = r"""
- name: Make the node what the inventory's variables ask for
  layer4.service_proxy.service_proxy_node:

- name: Prepare a host to forward, with node ports on localhost
  layer4.service_proxy.service_proxy_node:
    parts: [node]
    localhost_node_ports: true

- name: Give the node one service
  layer4.service_proxy.service_proxy_node:
    parts: [proxy]
    services:
      - name: web
        vip: 172.20.0.115
        port: 80
        backends:
          - address: 10.0.0.11
            port: 8080

- name: Leave the host as it was found
  layer4.service_proxy.service_proxy_node:
    state: absent
"""

RETURN = r"""
missing_packages:
  description: The packages that have to be installed first. Without any, the key is not there.
  returned: when commands are missing
  type: list
  elements: str
  sample: [conntrack, ipset]
added:
  description: The names of services that the node did not have.
  returned: with V(proxy) in O(parts)
  type: list
  elements: str
updated:
  description: The names of services that are changed.
  returned: with V(proxy) in O(parts)
  type: list
  elements: str
removed:
  description: The names of services that are removed.
  returned: with V(proxy) in O(parts)
  type: list
  elements: str
conntrack_deleted:
  description: How many entries of connection tracking were deleted, so that UDP flows move.
  returned: with V(proxy) in O(parts)
  type: int
announced:
  description: The addresses that the node is to announce, whether it has usable backends for them or not.
  returned: with V(announce) in O(parts), and with O(announce) other than V(none)
  type: list
  elements: str
traffic:
  description: The connections to announced addresses that connection tracking knows.
  returned: with O(withdrawal), but not in check mode
  type: dict
  contains:
    new:
      description: How many connections began during the last three seconds of waiting.
      type: int
    left:
      description: How many connections are not over.
      type: int
    waited:
      description: For how many seconds they were waited for.
      type: float
drained:
  description: The backends that take no new connections, from O(drained) and from O(drain) of this and earlier runs.
  returned: with V(proxy) in O(parts)
  type: list
  elements: str
unhealthy:
  description: The backends that take no new connections because of health checks, a line for each, with the reason.
  returned: with V(proxy) in O(parts)
  type: list
  elements: str
endpoints:
  description: The backends that O(drain) or O(undrain) selects, as C(backends) of M(layer4.service_proxy.backend_connections_info).
  returned: with O(drain) or O(undrain)
  type: list
  elements: dict
diff:
  description:
    - The lines that change, by facility. Each part stands under its name, in the words of its tool.
  returned: success
  type: dict
  contains:
    before:
      description: Lines that are removed.
      type: str
    after:
      description: Lines that are added.
      type: str
"""

import gc
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import shipped_code
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import (
    PARTS,
    SPECIFICATION,
    WITHDRAWALS,
)


def main() -> None:
    gc.disable()  # a short life with hundreds of thousands of values that are no cycles: half of its time otherwise
    module = AnsibleModule(
        argument_spec={
            "parts": {"type": "list", "elements": "str", "choices": list(PARTS), "default": list(PARTS)},
            "validate_only": {"type": "bool", "default": False},
            "drain": {"type": "str"},
            "undrain": {"type": "str"},
            "withdrawal": {"type": "str", "choices": list(WITHDRAWALS)},
            "drain_seconds": {"type": "int", "default": 0},
            "generation": {"type": "int"},
            "services": {"type": "list", "elements": "dict", "default": []},
            "payload": {"type": "dict", "no_log": True},
            "code": {"type": "str", "no_log": True},
            "is_known": {"type": "bool", "default": False},
            **SPECIFICATION,
        },
        mutually_exclusive=[("drain", "undrain", "generation", "withdrawal")],
        supports_check_mode=True,
    )
    shipped_code.install(module.params.pop("code"))
    run_lock, service, run, announcing = map(
        _imported, ("_kernel.run_lock", "_model.service", "_node.run", "_node.announcing")
    )
    try:
        with nullcontext() if module.check_mode else run_lock.exclusive_run():
            result = run.run_node(module)
            if not module.check_mode:
                shipped_code.keep() if module.params["state"] == "present" else run_lock.remove_run_directory()
        if module.params["withdrawal"] and not module.check_mode:
            result["traffic"] = announcing.watch_traffic(module, result.get("announced", []))
    except service.InvalidServices as error:
        module.fail_json(msg=str(error), problems=error.problems)
    except run.RUN_ERRORS as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


def _imported(name: str) -> Any:
    """Import what Ansible is not to look for, since it is in the option C(code)."""
    return import_module(f"{shipped_code.PACKAGE}.{name}")


if __name__ == "__main__":
    main()
