#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ipvs_service
version_added: 0.1.0
short_description: Manage a virtual service of IPVS and its destinations
description:
  - Creates, changes or removes a virtual service in the kernel's IPVS, and its destinations (real servers).
  - Only what is given is enforced. Options that are left out keep their values in an existing virtual service.
  - Destinations are added before others are removed, so that a virtual service that has some is never without. Nothing is
    written when nothing differs.
  - One task manages one virtual service. M(layer4.service_proxy.vip_service) with O(layer4.service_proxy.vip_service#module:dataplane=ipvs)
    manages thousands of them in one task, with the addresses and rules that they need.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  address:
    description: The address at which clients connect, IPv4 or IPv6. This or O(fwmark) is required.
    type: str
  port:
    description:
      - The port at which clients connect, required with O(address).
      - V(0) takes all ports that no other virtual service of the address has, and needs O(persistence_timeout).
    type: int
  protocol:
    description: The transport protocol. V(tcp) if this is not given, except with O(fwmark), which takes packets of all.
    type: str
    choices: [tcp, udp, sctp]
  fwmark:
    description: The firewall mark of the packets that are for the virtual service, 1 to 4294967295.
    type: int
  family:
    description: The address family of the packets with this O(fwmark), V(ipv4) if this is not given. With O(address) it is the address's.
    type: str
    choices: [ipv4, ipv6]
  scheduler:
    description:
      - How a destination is chosen for a connection. A virtual service is created with V(wlc) if this is not given.
      - The kernel's module of the same name (V(wlc) is C(ip_vs_wlc)) is loaded where that is possible.
    type: str
    choices: [rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos]
  scheduler_flags:
    description:
      - How O(scheduler=sh) and O(scheduler=mh) hash. The list is the whole of them, and an empty one clears them.
      - V(sh-port) and V(mh-port) hash the client's port too; V(sh-fallback) and V(mh-fallback) choose another destination in
        place of one that takes no new connections.
      - With another O(scheduler) than before, flags that are not given are cleared.
    type: list
    elements: str
    choices: [sh-fallback, sh-port, mh-fallback, mh-port]
  persistence_timeout:
    description:
      - For how many seconds a client is led to the same destination after its last connection. V(0) for no persistence.
      - At most 2678400, which is 31 days.
    type: int
  netmask:
    description:
      - The networks whose clients are led to the same destination together, by the length of their prefix, or for IPv4 by a
        mask such as V(255.255.255.0). A virtual service is created with every client on its own.
      - Only with persistence.
    type: str
  one_packet:
    description:
      - Whether every datagram is scheduled on its own, as for DNS servers.
      - For V(udp) and for O(fwmark).
    type: bool
  destinations:
    description:
      - The servers that the virtual service leads to.
      - An empty list adds or removes nothing, except with O(exclusive=true), when it removes all.
    type: list
    elements: dict
    suboptions:
      address:
        description:
          - The server's address. Of the other address family than the virtual service's only with O(destinations[].forward_method=tunnel).
        type: str
        required: true
      port:
        description:
          - The server's port. If this is V(0) or not given it is the virtual service's O(port), and with O(fwmark) the one that
            the client chose.
          - A destination is known by its address and port.
        type: int
      forward_method:
        description:
          - How packets get to the server. A destination is added with V(masquerade) if this is not given.
          - V(masquerade) translates the destination, V(direct) sends the packet on to the server's link-layer address, and V(tunnel) wraps
            it into another. The last two change no port and the server must have the virtual service's address.
        type: str
        choices: [masquerade, direct, tunnel]
      weight:
        description: The server's share, 0 to 65535. V(0) takes no new connections. A destination is added with V(1) if this is not given.
        type: int
      upper_threshold:
        description:
          - With so many connections, those among them that have just ended, the server gets no new ones. V(0), the default of a
            destination that is added, means without end.
        type: int
      lower_threshold:
        description:
          - A server that had too many gets new ones again below this number. V(0), the default of a destination that is added, means three quarters
            of O(destinations[].upper_threshold).
        type: int
  exclusive:
    description: Whether O(destinations) are all that the virtual service has, so that all others go.
    type: bool
    default: false
  drain_timeout:
    description:
      - For how many seconds at most a destination that goes, alone or with the whole virtual service, may finish its connections.
        It gets the weight 0 and no new connections in this time. It goes as soon as none of those that go has active
        connections.
      - UDP has no end of a connection to wait for. Such destinations go at once.
    type: int
    default: 0
  state:
    description:
      - With V(present) the virtual service exists and has these destinations.
      - With V(absent) these destinations go; if O(destinations) is not given, the virtual service goes with all of its destinations.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes
notes:
  - Needs nothing on the host but Python and a kernel with IPVS. Neither the tool C(ipvsadm) nor pyroute2 is used.
  - The module does not bind the address to an interface, and sets no sysctl. To masquerade, packets must be forwarded
    (C(net.ipv4.ip_forward)), and answers must come back through this host.
  - Virtual services are gone after a reboot.
  - A virtual service that M(layer4.service_proxy.vip_service) made is put back as that wants it by its next run.
seealso:
  - module: layer4.service_proxy.vip_service
"""

EXAMPLES = r"""
- name: Two web servers, the second one with twice the share of the first
  layer4.service_proxy.ipvs_service:
    address: 192.0.2.10
    port: 80
    scheduler: wrr
    destinations:
      - address: 10.0.0.11
        port: 8080
      - address: 10.0.0.12
        port: 8080
        weight: 2

- name: Exactly one of them, once the other has finished its connections
  layer4.service_proxy.ipvs_service:
    address: 192.0.2.10
    port: 80
    destinations:
      - address: 10.0.0.12
        port: 8080
    exclusive: true
    drain_timeout: 60

- name: Name servers, each query on its own
  layer4.service_proxy.ipvs_service:
    address: 2001:db8::53
    port: 53
    protocol: udp
    scheduler: rr
    one_packet: true
    destinations:
      - address: fd00::11
      - address: fd00::12

- name: Clients stay with their server for an hour, those of one network together, whatever marked port they use
  layer4.service_proxy.ipvs_service:
    fwmark: 7
    scheduler: sh
    scheduler_flags: [sh-fallback]
    persistence_timeout: 3600
    netmask: 255.255.255.0
    destinations:
      - address: 10.0.0.11
        forward_method: direct
        upper_threshold: 1000
        lower_threshold: 800

- name: One destination goes
  layer4.service_proxy.ipvs_service:
    fwmark: 7
    destinations:
      - address: 10.0.0.11
    state: absent

- name: The virtual service goes
  layer4.service_proxy.ipvs_service:
    address: 192.0.2.10
    port: 80
    state: absent
"""

RETURN = r"""
diff:
  description:
    - The lines that change, as C(ipvsadm -Sn) prints them, and with the thresholds (C(-x), C(-y)) that it leaves out.
    - The same in check mode and in a real run.
  returned: success
  type: dict
  contains:
    before:
      description: Lines that go.
      type: str
    after:
      description: Lines that come.
      type: str
  sample:
    before: ''
    after: |
      -A -t 192.0.2.10:80 -s wrr
      -a -t 192.0.2.10:80 -r 10.0.0.11:8080 -m -w 1
      -a -t 192.0.2.10:80 -r 10.0.0.12:8080 -m -w 2
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs import Ipvs, IpvsError, NoIpvsError
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import FAMILIES
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import PROTOCOLS, SCHEDULERS
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipvs import VirtualServicePlan
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import UndoFailed
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.plan import (
    apply_virtual_service,
    plan_virtual_service,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.request import (
    FLAGS,
    InvalidVirtualServiceError,
    parse_request,
)


def converge(module: AnsibleModule) -> VirtualServicePlan:
    """Validate and plan; unless in check mode, apply."""
    request = parse_request(module.params)
    with Ipvs() as ipvs:
        plan = plan_virtual_service(request, ipvs)
        if not module.check_mode:
            apply_virtual_service(plan, request, ipvs)
    return plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str"},
            "port": {"type": "int"},
            "protocol": {"type": "str", "choices": list(PROTOCOLS)},
            "fwmark": {"type": "int"},
            "family": {"type": "str", "choices": list(FAMILIES)},
            "scheduler": {"type": "str", "choices": list(SCHEDULERS)},
            "scheduler_flags": {"type": "list", "elements": "str", "choices": list(FLAGS)},
            "persistence_timeout": {"type": "int"},
            "netmask": {"type": "str"},
            "one_packet": {"type": "bool"},
            "destinations": {"type": "list", "elements": "dict"},
            "exclusive": {"type": "bool", "default": False},
            "drain_timeout": {"type": "int", "default": 0},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        plan = converge(module)
    except (InvalidVirtualServiceError, IpvsError, NoIpvsError, UndoFailed) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=plan.changed, diff={"before": plan.before, "after": plan.after})


if __name__ == "__main__":
    main()
