# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node is asked to be: the options of `service_proxy_node`, which are the variables of the roles without their prefix.

One table of their types serves the module on the node and the validation on the controller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._model.messages import quoted

PREFIX = "service_proxy_"
"""Of the variables of the roles."""
PARTS = ("node", "bridge", "backend", "overlay", "proxy", "announce")
"""What the roles of these names do, in the order in which it is done."""
BEGIN, COMPLETE, END = WITHDRAWALS = ("begin", "complete", "end")
"""Of a node from the network outside: routers are asked to leave it; nothing is announced; all is again."""
_STRINGS = {"type": "list", "elements": "str"}
_TIMEOUT = {"type": "int"}

SPECIFICATION: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "dataplane": {"type": "str", "choices": ["iptables", "ipvs", "nftables"], "default": "iptables"},
    "exclusive": {"type": "bool", "default": True},
    "drained": {**_STRINGS, "default": []},
    "name": {"type": "str"},
    "addresses": _STRINGS,
    "local_cidrs": {**_STRINGS, "default": []},
    "masquerade_all": {"type": "bool", "default": False},
    "node_port_addresses": {**_STRINGS, "default": []},
    "localhost_node_ports": {"type": "bool", "default": False},
    "allow_management_port": {"type": "bool", "default": False},
    "zone": {"type": "str"},
    "snat_address": {"type": "str"},
    "masquerade_mark": {"type": "str", "default": "0x4000/0x4000"},
    "chain_prefix": {"type": "str", "default": "L4"},
    "drop_invalid": {"type": "bool", "default": True},
    "counters": {"type": "bool", "default": False},
    "flow_offload": {**_STRINGS, "default": []},
    "backend_chains": {"type": "bool", "default": True},
    "drain_timeout": {"type": "int", "default": 0},
    "conn_reuse_mode": {"type": "int"},
    "expire_nodest_conn": {"type": "bool", "default": True},
    "tcp_timeout": _TIMEOUT,
    "tcpfin_timeout": _TIMEOUT,
    "udp_timeout": _TIMEOUT,
    "backend_cidrs": _STRINGS,
    "bridges": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "mode": {"type": "str", "choices": ["promiscuous", "hairpin", "none"], "default": "hairpin"},
            "ports": _STRINGS,
        },
    },
    "overlay": {"type": "str", "choices": ["none", "routes", "vxlan"], "default": "none"},
    "overlay_address": _STRINGS,
    "overlay_nodes": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, "address": _STRINGS, "cidrs": _STRINGS},
    },
    "vxlan_id": {"type": "int", "default": 4004},
    "vxlan_port": {"type": "int", "default": 4789},
    "vxlan_mtu": {"type": "int"},
    "vxlan_networks": {**_STRINGS, "default": ["169.254.0.0/16", "fd4c:3400::/64"]},
    "announce": {"type": "str", "choices": ["none", "vrrp", "bgp"], "default": "none"},
    "announce_vips": {"type": "bool", "default": False},
    "announce_address": _STRINGS,
    "announce_nodes": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, "address": _STRINGS},
    },
    "vrrp_interface": {"type": "str"},
    "vrrp_id": {"type": "int", "default": 51},
    "bgp_asn": {"type": "int"},
    "bgp_neighbors": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "address": {"type": "str", "required": True},
            "asn": {"type": "int", "required": True},
            "bfd": {"type": "bool", "default": False},
        },
    },
    "install_packages": {"type": "bool", "default": True},
    "bridge_netfilter": {"type": "bool"},
    "ipv6_forwarding": {"type": "bool"},
    "conntrack_max": {"type": "int"},
    "conntrack_tcp_timeout_established": {"type": "int"},
    "conntrack_tcp_timeout_close_wait": {"type": "int"},
    "save_rules": {"type": "bool", "default": True},
    "reapply": {"type": "bool", "default": False},
}
"""The options of a node's settings, as AnsibleModule takes them; services are apart, since they may be thousands."""

DEFAULTS: Mapping[str, Any] = {name: option.get("default") for name, option in SPECIFICATION.items()}
OTHER_VARIABLES = ("services", "group", "backend", "drain_seconds", "generation")
"""Variables with the prefix that are no settings of a node."""
NODE_SETTINGS = (
    *("name", "addresses", "local_cidrs", "masquerade_all", "node_port_addresses", "localhost_node_ports"),
    *("allow_management_port", "zone"),
    *("snat_address", "masquerade_mark", "chain_prefix", "drop_invalid", "counters", "flow_offload"),
    *("backend_chains", "drain_timeout"),
    *("conn_reuse_mode", "expire_nodest_conn", "tcp_timeout", "tcpfin_timeout", "udp_timeout"),
)
"""The settings that are keys of ``node`` of `vip_service`."""


_RANGES = {
    "conntrack_max": (0, 2147483647),
    "conntrack_tcp_timeout_established": (1, 2147483),
    "conntrack_tcp_timeout_close_wait": (1, 2147483),
}
"""What sysctls take. The kernel counts ticks, at most 1,000 a second, in 31 bits."""


class Bridge(NamedTuple):
    """A bridge that is to carry backends."""

    name: str
    mode: str
    """promiscuous, hairpin or none"""
    ports: tuple[str, ...]
    """The ports in hairpin mode; empty: all but network cards."""


class Settings:
    """The options as converted by SPECIFICATION, by attribute."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {key: values.get(key) for key in SPECIFICATION}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def problems(self) -> list[str]:
        """Return what is wrong with values that nothing else looks into before they are set, one line each."""
        given = ((name, self.values[name], *limits) for name, limits in _RANGES.items())
        drained = [
            f"{PREFIX}drained[{index}] is {quoted(one)}: must be the address of a backend, its address and port, or the name of its node"
            for index, one in enumerate(self.values["drained"] or ())
            if not one
        ]
        return drained + [
            f"{PREFIX}{name} is {quoted(value)}: must be an integer from {low} to {high}"
            for name, value, low, high in given
            if value is not None and not low <= value <= high
        ]

    @property
    def is_present(self) -> bool:
        return bool(self.values["state"] == "present")

    @property
    def is_ipvs(self) -> bool:
        return bool(self.values["dataplane"] == "ipvs")

    @property
    def forward_chains(self) -> list[str]:
        """The chains of services to which iptables' FORWARD leads: what they refuse, no rule of a role is to accept before."""
        return [f"{self.values['chain_prefix']}-{name}" for name in ("FIREWALL", "FORWARD", "REPLIES")]

    @property
    def has_overlay(self) -> bool:
        return self.is_present and self.values["overlay"] not in (None, "none")

    @property
    def overlay_cidrs(self) -> list[str]:
        """The networks of backends that the overlay has to do with, of this node and of others."""
        if not self.has_overlay:
            return []
        others = [cidr for one in self.values["overlay_nodes"] or () for cidr in one.get("cidrs") or ()]
        return [*(self.values["backend_cidrs"] or ()), *others]

    @property
    def announces_by(self) -> str:
        """How addresses are announced, ``none`` where they are not."""
        return str(self.values["announce"] or "none") if self.is_present else "none"

    @property
    def node(self) -> dict[str, Any]:
        """What `vip_service` takes as ``node``, without what is not given."""
        return {key: self.values[key] for key in NODE_SETTINGS if self.values[key] is not None}

    @property
    def given_bridges(self) -> list[Bridge] | None:
        """The bridges that are given; None where they are to be found."""
        given = self.values["bridges"]
        if given is None:
            return None
        return [Bridge(one["name"], one.get("mode") or "hairpin", tuple(one.get("ports") or ())) for one in given]

    @property
    def all_backend_cidrs(self) -> Sequence[str]:
        """The networks of this node's backends."""
        own = self.values["backend_cidrs"]
        return list((self.values["local_cidrs"] if own is None else own) or ())
