#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ipset_entry
version_added: 0.1.0
short_description: Manage an ipset and its entries
description:
  - Creates an ipset, and adds or removes entries of it, many thousands in one task.
  - With O(exclusive=true) the given entries are the whole set. They replace the old entries in one atomic swap, so that a
    packet sees either the old entries or the new ones.
  - Only what is given is enforced. Options that are left out keep their values in an existing set.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  set:
    description: The name of the set, at most 31 printable ASCII characters without blanks, quotes, commas and backslashes.
    type: str
    required: true
  type:
    description:
      - The type of the set. A set that does not exist is created if this is given; otherwise it is an error.
      - It is an error if the set exists with another type or O(family).
    type: str
    choices: ['hash:ip', 'hash:net', 'hash:ip,port', 'hash:net,port', 'hash:ip,port,ip', 'hash:ip,port,net', 'bitmap:port', 'list:set']
  family:
    description:
      - The family of the addresses in the set. A set is created with V(ipv4) if this is not given.
      - V(inet) and V(inet6) are ipset's words for the same. The types V(bitmap:port) and V(list:set) have no family.
    type: str
    choices: [ipv4, ipv6, inet, inet6]
  timeout:
    description:
      - Entries that are added from now on stay for so many seconds, if they give no timeout of their own. V(0) means for ever.
      - Without this a set is created without timeouts. At most 2147483.
    type: int
  comment:
    description: Whether entries can have comments.
    type: bool
  counters:
    description: Whether packets and bytes are counted for each entry.
    type: bool
  hashsize:
    description:
      - The size that the hash has at least, rounded up to a power of two. The kernel lets it grow with the entries. A set is
        created with 1024 if this is not given.
      - For types that begin with V(hash:).
    type: int
  maxelem:
    description:
      - The most entries that the set can hold. A set is created with 65536 if this is not given.
      - For types that begin with V(hash:).
    type: int
  range:
    description:
      - The first and last port that a set of type V(bitmap:port) can hold, such as V(1024-2047).
      - A set is created with V(0-65535) if this is not given.
    type: str
  entries:
    description:
      - The entries, each a string as C(ipset add) takes it, such as V(10.0.0.1), V("10.0.0.0/24 nomatch") or
        V('10.0.0.1,tcp:8080,10.0.0.2 timeout 60 comment "batch job"'), or a dict with the keys below.
      - The keys are V(entry), the element as a string, which is required, and V(timeout), V(comment), V(packets), V(bytes)
        and V(nomatch).
      - V(timeout) is for how many seconds an entry stays when it is added, V(0) for ever. An entry that is there keeps the time that it has left; it
        changes only if it is to stay for ever and does not, or the other way round.
      - V(comment) is the entry's comment; an empty one removes it. An entry that gives none keeps the one that it has.
      - V(packets) and V(bytes) are what the counters start with when the entry is added. They never cause a change.
      - V(nomatch) makes the entry an exception from the networks around it, in types with V(net).
      - Any spelling of an element is idempotent. A range V(10.0.0.1-10.0.0.9), a network where single addresses are stored, and a range
        of ports V(tcp:80-89) stand for at most 65536 elements. A port without a protocol is a TCP port, and can be the name of a
        service that the host knows. ICMP is written by its numbers, V(icmp:8/0). Host names are refused.
      - An empty list adds or removes nothing, except with O(exclusive=true), when it empties the set.
    type: list
    elements: raw
  exclusive:
    description: Whether O(entries) are the whole set, so that all others go.
    type: bool
    default: false
  state:
    description:
      - With V(present) the set exists and has these entries.
      - With V(absent) these entries go; if O(entries) is not given, the set goes. It is an error if rules or other
        sets use the set, and the message has them.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes
notes:
  - Needs nothing on the host but Python and a kernel with ipset. Neither the tool C(ipset) nor pyroute2 is used.
  - Where O(timeout), O(comment), O(counters), O(hashsize), O(maxelem) or O(range) differ from those of a set that exists,
    the set is built anew beside the old one and takes its place at once, and the rules that use it go on. Its entries
    are kept, with the time that they have left (those without any stay for ever), their comments and counters.
    Entries that others add in this moment are lost.
  - Sets with C(netmask), C(bitmask), C(markmask) or C(skbinfo), and those of other types, are refused.
  - Networks of length 0 cannot be stored by the kernel. V(0.0.0.0/1) and V(128.0.0.0/1) together do the same.
  - Sets are gone after a reboot. What fills them at boot is not the business of this module.
  - In check mode, sets that an earlier task would make do not exist. A V(list:set) then warns of members that are missing.
seealso:
  - module: layer4.service_proxy.nat_chain
  - module: layer4.service_proxy.vip_service
"""

EXAMPLES = r"""
- name: Addresses that are always let in, with the reason
  layer4.service_proxy.ipset_entry:
    set: trusted
    type: hash:net
    comment: true
    entries:
      - 10.0.0.0/8
      - 10.66.0.0/16 nomatch
      - entry: 192.0.2.0/24
        comment: office

- name: Exactly these addresses are blocked
  layer4.service_proxy.ipset_entry:
    set: blocked
    type: hash:ip
    family: ipv6
    entries:
      - 2001:db8::1
      - 2001:db8::7-2001:db8::9
    exclusive: true

- name: A client may use one port of two machines for an hour
  layer4.service_proxy.ipset_entry:
    set: guests
    type: hash:ip,port,ip
    timeout: 3600
    entries:
      - 198.51.100.7,tcp:5432,10.0.0.11
      - 198.51.100.7,tcp:5432,10.0.0.12

- name: Ports that are published
  layer4.service_proxy.ipset_entry:
    set: published
    type: bitmap:port
    range: 1-1023
    entries: [80, https]

- name: One set for all of them
  layer4.service_proxy.ipset_entry:
    set: known
    type: list:set
    entries: [trusted, guests]

- name: One address is no longer blocked
  layer4.service_proxy.ipset_entry:
    set: blocked
    entries: ['2001:db8::8']
    state: absent

- name: The set goes
  layer4.service_proxy.ipset_entry:
    set: blocked
    state: absent
"""

RETURN = r"""
diff:
  description:
    - The lines that change, as C(ipset save) prints them, without what changes by itself, which is the time that entries have left and
      their counters, and without the random C(initval).
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
      create trusted hash:net family inet hashsize 1024 maxelem 65536 comment
      add trusted 10.0.0.0/8
      add trusted 10.66.0.0/16 nomatch
      add trusted 192.0.2.0/24 comment "office"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipset import Ipset, IpsetError, NoIpsetError
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import both_families
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import SET_TYPES, InvalidSetError
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset import SetInUseError, SetPlan
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset_steps import bind
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import UndoFailed, run
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.plan import describe_users, plan_set
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.request import (
    FAMILY_CHOICES,
    parse_request,
)


def converge(module: AnsibleModule) -> SetPlan:
    """Validate and plan; unless in check mode, apply."""
    request = parse_request(module.params)
    with Ipset() as sets:
        try:
            plan = plan_set(request, sets, module.check_mode, module.warn)
        except SetInUseError as error:
            module.fail_json(msg=describe_users(error, sets, both_families(module).values()))
        if not module.check_mode:
            run(bind(plan.steps, sets))
    return plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "set": {"type": "str", "required": True},
            "type": {"type": "str", "choices": list(SET_TYPES)},
            "family": {"type": "str", "choices": list(FAMILY_CHOICES)},
            "timeout": {"type": "int"},
            "comment": {"type": "bool"},
            "counters": {"type": "bool"},
            "hashsize": {"type": "int"},
            "maxelem": {"type": "int"},
            "range": {"type": "str"},
            "entries": {"type": "list", "elements": "raw"},
            "exclusive": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        plan = converge(module)
    except (InvalidSetError, IpsetError, NoIpsetError, UndoFailed) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=plan.changed, diff=plan.diff)


if __name__ == "__main__":
    main()
