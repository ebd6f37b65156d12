# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which UDP flows are removed, one case a line: what the service is, what conntrack holds, and whether it goes."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.conntrack_cleanup import (
    Targets,
    families_in_use,
    stale,
    udp_targets,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import FAMILIES, family_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.conflicts import Claim
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.families import service_families
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    Node,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.conntrack import Endpoint, Flow

VIP, EXTERNAL, BACKEND, GONE = ("10.96.0.1", 53), ("203.0.113.1", 53), ("10.0.1.11", 5353), ("10.0.1.99", 5353)
VIP6, BACKEND6 = ("fd96::1", 53), ("fd00:1::11", 5353)
NODE, NODE6, OTHER_NODE_ADDRESS = "192.0.2.1", "2001:db8::1", "10.9.9.9"
DNS: dict[str, Any] = {
    "name": "dns",
    "vip": [VIP[0]],
    "external_ips": [EXTERNAL[0]],
    "port": 53,
    "node_port": 30053,
    "protocol": "udp",
    "backends": [{"address": BACKEND[0], "port": 5353}],
}


def _node(**settings: Any) -> Node:
    return parse_node({"name": "node1", "addresses": [NODE, NODE6, OTHER_NODE_ADDRESS], **settings})


def _flow(destination: Endpoint, reply_source: Endpoint, protocol: str = "udp", live: bool = True) -> Flow:
    return Flow(protocol, family_of(destination[0]), destination, reply_source, live, b"")


def _targets(node: Node, *services: dict[str, Any], gone: list[Claim] | None = None) -> Targets:
    parsed = parse_services(services, node)
    wanted = {family: [one for one in parsed if family in service_families(one, node)] for family in FAMILIES}
    return udp_targets(wanted, dict.fromkeys(FAMILIES, gone or []), node)


def _goes(flow: Flow, node: Node | None = None, gone: list[Claim] | None = None, **service: Any) -> bool:
    node = node or _node()
    return stale([flow], _targets(node, {**DNS, **service}, gone=gone), node) == [flow]


def _backend(address: Endpoint = BACKEND, **options: Any) -> dict[str, Any]:
    return {"address": address[0], "port": address[1], **options}


@pytest.mark.parametrize("at", [VIP, EXTERNAL, (NODE, 30053), (OTHER_NODE_ADDRESS, 30053)])
def test_a_flow_to_any_address_of_the_service_goes_when_its_backend_is_not_listed(at: Endpoint) -> None:
    assert not _goes(_flow(at, BACKEND))
    assert _goes(_flow(at, GONE))
    assert _goes(_flow(at, (BACKEND[0], 5354))), "another port of the same backend"
    assert _goes(_flow(at, at)), "never translated"


@pytest.mark.parametrize(
    "flow",
    [
        _flow((VIP[0], 54), GONE),
        _flow(("10.96.0.2", 53), GONE),
        _flow((NODE, 53), GONE),
        _flow((VIP[0], 30053), GONE),
        _flow(("192.0.2.77", 30053), GONE),
        _flow(("127.0.0.1", 30053), GONE),
        _flow(("198.51.100.7", 5353), BACKEND),
        _flow(VIP, GONE, "tcp"),
        _flow(VIP, GONE, "sctp"),
        _flow((NODE, 30053), GONE, "tcp"),
        _flow((NODE6, 30053), ("fd00:9::9", 53)),
    ],
    ids=repr,
)
def test_a_flow_that_is_not_ours_stays(flow: Flow) -> None:
    assert not _goes(flow)


@pytest.mark.parametrize(
    ("backend", "goes"),
    [
        ({}, False),
        ({"weight": 0}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"terminating": True}, False),
        ({"ready": False}, True),
        ({"ready": False, "serving": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, True),
    ],
)
def test_a_listed_backend_keeps_its_flows_as_long_as_it_serves(backend: dict[str, Any], goes: bool) -> None:
    backends = [_backend(**backend), _backend(("10.0.1.12", 5353))]
    assert _goes(_flow(VIP, BACKEND), backends=backends) is goes


def test_an_untranslated_flow_goes_only_when_a_new_one_would_find_a_backend() -> None:
    assert not _goes(_flow(VIP, VIP), backends=[])
    assert not _goes(_flow(VIP, VIP), backends=[_backend(weight=0)])
    assert _goes(_flow(VIP, VIP))
    assert _goes(_flow(VIP, GONE), backends=[]), "it leads to a backend that is not there"


def test_families_are_judged_by_themselves() -> None:
    both: dict[str, Any] = {"vip": [VIP[0], VIP6[0]], "backends": [_backend(), _backend(BACKEND6)]}
    assert not _goes(_flow(VIP6, BACKEND6), **both)
    assert _goes(_flow(VIP6, ("fd00:1::99", 5353)), **both)
    assert not _goes(_flow(VIP6, VIP6), vip=both["vip"]), "no backend in this family"
    assert _goes(_flow((NODE6, 30053), GONE), **both)


def test_node_ports_are_looked_for_where_the_node_has_them() -> None:
    only = _node(node_port_addresses=["192.0.2.0/24"])
    assert _goes(_flow((NODE, 30053), GONE), only)
    assert not _goes(_flow((OTHER_NODE_ADDRESS, 30053), GONE), only)
    assert _goes(_flow(("127.0.0.1", 30053), GONE), _node(localhost_node_ports=True))


def test_all_flows_to_what_a_service_had_go() -> None:
    gone = [
        Claim("old", "vip", "udp", "10.96.0.2", 53),
        Claim("old", "node port", "udp", None, 30054),
        Claim("old", "vip", "tcp", "10.96.0.3", 53),
    ]
    for destination in (("10.96.0.2", 53), (NODE, 30054)):
        assert _goes(_flow(destination, BACKEND), gone=gone)
        assert _goes(_flow(destination, destination), gone=gone)
    assert not _goes(_flow(("10.96.0.3", 53), BACKEND), gone=gone)


def test_an_address_that_a_service_takes_over_is_judged_by_the_new_one() -> None:
    gone = [Claim("old", "vip", "udp", *VIP)]
    assert not _goes(_flow(VIP, BACKEND), gone=gone)
    assert _goes(_flow(VIP, GONE), gone=gone)


def test_without_udp_services_there_is_nothing_to_look_for() -> None:
    assert _targets(_node(), {**DNS, "protocol": "tcp"}, gone=[Claim("old", "vip", "sctp", *VIP)]) == {}


def test_connections_that_live_on_keep_their_family() -> None:
    over = _flow(VIP, BACKEND, "tcp", live=False)
    assert families_in_use([over, _flow(VIP, VIP, "tcp"), _flow(VIP, BACKEND, "udp")]) == set()
    assert families_in_use([over, _flow(VIP, BACKEND, "tcp")]) == {"ipv4"}
    assert families_in_use([_flow(VIP6, BACKEND6, "sctp")]) == {"ipv6"}
