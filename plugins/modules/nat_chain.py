#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nat_chain
version_added: 0.1.0
short_description: Manage an iptables chain with exactly the given rules and jumps
description:
  - Gives a chain exactly the listed rules, in this order, and puts jumps to it into other chains. Everything is
    applied in one C(iptables-restore --noflush) per address family, which contains only what changes.
  - Only this chain and the jumps to it are changed. Rules of other programs are left untouched, byte for byte.
  - A rule can be spelled in any way that C(iptables-restore) accepts. Where the spelling is not that of
    C(iptables-save), the rules are first loaded in a throwaway network namespace and read back. This does not touch
    the host's rules, so it happens in check mode, too, and a rule that iptables or the kernel refuses is reported
    before anything is changed.
  - Works with the nft and the legacy variant of iptables, whichever C(iptables) on the host is.
author:
  - layer4.service_proxy contributors (!UNKNOWN)
options:
  chain:
    description:
      - The name of the chain. At most 28 letters, digits and C(_.:+@/-), not beginning with a dash.
      - Names of built-in chains and of targets are refused.
      - Either this or O(chains) is required.
    type: str
  table:
    description: The table that the chain is in.
    type: str
    choices: [nat, filter, mangle, raw]
    default: nat
  ip_version:
    description: The address family. With V(both) the chain is in both, with the same rules, or in none if one of them fails.
    type: str
    choices: [ipv4, ipv6, both]
    default: ipv4
  rules: &rules
    description:
      - The rules of the chain in their order, as for C(iptables -A CHAIN), but without C(-A CHAIN).
      - A word with blanks stands in double quotes, in which a backslash goes before a quote or a backslash, or in single quotes.
      - An empty list makes the chain empty. If not given, the rules of an existing chain stay as they are.
      - Chains and ipsets that a rule names must exist.
      - Host names are resolved without network, so they must stand in C(/etc/hosts); better give addresses.
    type: list
    elements: str
  jumps: &jumps
    description:
      - The rules in other chains that lead to this chain. Other jumps to it in the table's built-in chains are removed,
        and those that are given twice by hand are reduced to one.
      - An empty list removes all of them. If not given, jumps stay as they are.
    type: list
    elements: dict
    suboptions:
      from:
        description: The chain that the jump stands in, a built-in one or any other that exists.
        type: str
        required: true
      match:
        description: Which packets take the jump, as a rule specification without target. Every packet, if not given.
        type: str
      position:
        description:
          - The end of O(jumps[].from) at which the jump is put. It stays where it is as long as only jumps to other
            user-defined chains stand between it and this end. Otherwise it is moved there.
        type: str
        choices: [first, last]
        default: last
      comment:
        description: A comment on the jump, one line of at most 255 bytes.
        type: str
  chains:
    description:
      - Several chains, in place of O(chain), all set in one C(iptables-restore --noflush) for each address family. They may lead
        to one another.
      - A module takes a host far longer to start than a chain does to set, so that one task for all chains of a role is several
        times faster than a task for each.
    type: list
    elements: dict
    suboptions:
      chain:
        description: As O(chain).
        type: str
        required: true
      table:
        description: As O(table), which is the default.
        type: str
        choices: [nat, filter, mangle, raw]
      ip_version:
        description: As O(ip_version), which is the default.
        type: str
        choices: [ipv4, ipv6, both]
      rules: *rules
      jumps: *jumps
      state:
        description: As O(state), which is the default.
        type: str
        choices: [present, absent]
  wait:
    description: For how many seconds to wait for the xtables lock, which other tools may hold. V(0) means not at all.
    type: int
    default: 10
  state:
    description:
      - With V(present) the chain exists as given.
      - With V(absent) the jumps to it go, those in built-in chains and in each O(jumps[].from), and then the chain. It is an
        error, before anything is changed, if any other chain leads to it.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - layer4.service_proxy.attributes
notes:
  - Needs C(unshare) (util-linux) for rules that are not spelled as C(iptables-save) does. Where no network
    namespace can be made, such as in a container without the right to, only that spelling is found unchanged, and a
    warning says so.
  - In check mode, chains and ipsets that an earlier task would make do not exist.
requirements:
  - iptables 1.8 or newer (nft or legacy variant), with ip6tables for IPv6
  - ipset, for rules that match ipsets
seealso:
  - module: layer4.service_proxy.vip_service
  - module: layer4.service_proxy.ipset_entry
"""

EXAMPLES = r"""
- name: Port 8080 of one address leads to a machine behind this one
  layer4.service_proxy.nat_chain:
    chain: WEB-FRONT
    rules:
      - -d 192.0.2.10 -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.11:80
    jumps:
      - from: PREROUTING
        comment: published ports
      - from: OUTPUT
        match: -m addrtype --dst-type LOCAL
        comment: published ports

- name: Log and drop what comes to the metrics port from elsewhere, in both families, before anything else is decided
  layer4.service_proxy.nat_chain:
    table: filter
    chain: METRICS-GUARD
    ip_version: both
    rules:
      - -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
      - -m limit --limit 5/min -j LOG --log-prefix "metrics refused "
      - -j DROP
    jumps:
      - from: INPUT
        match: -p tcp --dport 9100 ! -i lo
        position: first

- name: A chain that other tools fill, with its jumps left as they are
  layer4.service_proxy.nat_chain:
    chain: SITE-HOOK

- name: Two chains of two tables at once, of which one goes where it was
  layer4.service_proxy.nat_chain:
    chains:
      - chain: WEB-BACKENDS
        rules:
          - -s 10.0.0.0/24 ! -d 10.0.0.0/24 -j MASQUERADE
        jumps:
          - from: POSTROUTING
      - chain: WEB-FORWARD
        table: filter
        ip_version: both
        state: absent

- name: The chain and the jumps to it go
  layer4.service_proxy.nat_chain:
    table: filter
    chain: METRICS-GUARD
    ip_version: both
    state: absent
"""

RETURN = r"""
diff:
  description:
    - The lines that change, as C(iptables-save) prints them, under the name of the tool for their address family.
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
      # iptables
      *nat
      :WEB-FRONT - [0:0]
      -A PREROUTING -m comment --comment "published ports" -j WEB-FRONT
      -A WEB-FRONT -d 192.0.2.10/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.11:80
      COMMIT
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import XtablesError, both_families
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import BUILT_IN_CHAINS
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables_steps import FamilyPlans
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import UndoFailed
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.plan import plan_chains
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import (
    FAMILIES,
    InvalidChainError,
    parse_chain,
)

STATES = ["present", "absent"]
JUMP = {
    "from": {"type": "str", "required": True},
    "match": {"type": "str"},
    "position": {"type": "str", "choices": ["first", "last"], "default": "last"},
    "comment": {"type": "str"},
}
OF_A_CHAIN = {
    "rules": {"type": "list", "elements": "str"},
    "jumps": {"type": "list", "elements": "dict", "options": JUMP},
}
CHAIN = {
    "chain": {"type": "str", "required": True},
    "table": {"type": "str", "choices": list(BUILT_IN_CHAINS)},
    "ip_version": {"type": "str", "choices": list(FAMILIES)},
    "state": {"type": "str", "choices": STATES},
    **OF_A_CHAIN,
}


def converge(module: AnsibleModule) -> FamilyPlans:
    """Plan everything and let iptables read it; unless in check mode, apply it."""
    given = module.params
    defaults = {key: given[key] for key in ("table", "ip_version", "state")}
    asked = [given] if given["chains"] is None else [_with_defaults(one, defaults) for one in given["chains"]]
    requests = [parse_chain(options) for options in asked]
    tables = both_families(module, given["wait"])
    change = FamilyPlans(
        {
            family: plan_chains([one for one in requests if family in one.families], tables[family], module.warn)
            for family in FAMILIES["both"]
            if any(family in one.families for one in requests)
        },
        tables,
    )
    change.test()
    if not module.check_mode:
        change.apply()
    return change


def _with_defaults(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {**options, **{key: value for key, value in defaults.items() if options[key] is None}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "chain": {"type": "str"},
            "chains": {"type": "list", "elements": "dict", "options": CHAIN},
            "table": {"type": "str", "choices": list(BUILT_IN_CHAINS), "default": "nat"},
            "ip_version": {"type": "str", "choices": list(FAMILIES), "default": "ipv4"},
            "wait": {"type": "int", "default": 10},
            "state": {"type": "str", "choices": STATES, "default": "present"},
            **OF_A_CHAIN,
        },
        required_one_of=[("chain", "chains")],
        mutually_exclusive=[("chain", "chains"), ("rules", "chains"), ("jumps", "chains")],
        supports_check_mode=True,
    )
    if module.params["wait"] < 0:
        module.fail_json(msg=f"wait is {module.params['wait']}: must be 0 or more seconds")
    try:
        change = converge(module)
    except (InvalidChainError, XtablesError, UndoFailed) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=change.changed, diff=change.diff)


if __name__ == "__main__":
    main()
