# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Valid services of all kinds, and node settings, as users write them, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NODES = ("node1", "node2", None)
ZONES = ("a", "b", None)
NODE_ADDRESSES = ("192.0.2.1", "10.0.1.1", "2001:db8::1", "fd00:1::1")
BACKENDS = ("10.0.1.11", "10.0.1.12", "10.0.2.11", "10.0.2.12", "fd00:1::11", "fd00:1::12", "fd00:2::11")
RANGES = ("192.0.2.0/24", "10.0.0.0/16", "203.0.113.200/32", "fd00::/16", "0.0.0.0/0", "::/0")
LOCAL_CIDRS = ("10.0.1.0/24", "10.0.0.0/16", "fd00:1::/64")
CLIENTS = ("192.0.2.100", "10.0.2.11", "198.51.100.9", "2001:db8::100", "fd00:2::11")
MARKS = ("0x4000/0x4000", "0x200/0x200", "0x1/0xf", "0x40/0xffffffff")
POLICY = st.sampled_from(["cluster", "local"])
SHARED_PORTS = (53, 80, 443)


def _some(values: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=3)


def _optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A dict with some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


_BACKEND = st.builds(
    lambda where, rest: {**where, **rest},
    st.fixed_dictionaries({"address": st.sampled_from(BACKENDS), "port": st.sampled_from([8080, 9090])}),
    _optional(
        weight=st.sampled_from([0, 1, 2, 3, 65535]),
        node=st.sampled_from(NODES),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        zone=st.sampled_from(ZONES),
        tier=st.sampled_from([0, 1, 1, 9]),
    ),
)
_POLICIES = _optional(
    internal_traffic_policy=POLICY,
    external_traffic_policy=POLICY,
    traffic_distribution=st.sampled_from(["any", "prefer_zone", "prefer_node"]),
    session_affinity=st.sampled_from(["none", "client_ip"]),
    session_affinity_timeout=st.sampled_from([1, 86400]),
)


@st.composite
def service(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """One service; those of different numbers, 1 to 99, get along: same address and other port, or the other way round."""
    alone = draw(st.booleans())
    last = number if alone else 200
    ways = {
        "vip": [f"10.96.0.{last}", f"fd96::{last}"],
        "external_ips": [f"203.0.113.{last}", f"2001:db8:113::{last}"],
        "load_balancer_ips": [f"198.51.100.{last}", f"2001:db8:51::{last}"],
    }
    made: dict[str, Any] = {key: draw(_some(addresses)) for key, addresses in ways.items()}
    if draw(st.booleans()) or not any(made.values()):
        made["node_port"] = 30000 + number
    return {
        "name": f"service-{number}",
        **made,
        "port": draw(st.sampled_from(SHARED_PORTS)) if alone else 1000 + number,
        "protocol": draw(st.sampled_from(["tcp", "udp", "sctp"])),
        "source_ranges": draw(_some(RANGES)),
        "backends": draw(st.lists(_BACKEND, max_size=5, unique_by=lambda one: (one["address"], one["port"]))),
        **draw(_POLICIES),
    }


def services(least: int = 0, most: int = 5) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A list of services that a node takes."""
    numbers = st.lists(st.integers(1, 99), unique=True, min_size=least, max_size=most)
    return numbers.flatmap(lambda chosen: st.tuples(*map(service, chosen)).map(list))


NODE = st.builds(
    lambda rest: {"name": "node1", "addresses": list(NODE_ADDRESSES), **rest},
    _optional(
        local_cidrs=_some(LOCAL_CIDRS),
        zone=st.sampled_from(ZONES),
        masquerade_all=st.booleans(),
        node_port_addresses=_some(["192.0.2.0/24", "10.0.1.1/32", "2001:db8::/64"]),
        localhost_node_ports=st.booleans(),
        snat_address=st.sampled_from(["192.0.2.1", "2001:db8::1"]),
        masquerade_mark=st.sampled_from(MARKS),
        drop_invalid=st.booleans(),
        backend_chains=st.booleans(),
    ),
)
