# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What filters are told without a node: errors to the letter, and which dataplane is which."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.readback import (
    ObservedDestination,
    ObservedVirtualService,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import (
    find_errors,
    render_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.report import Refusal, as_dicts
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices

WEB: dict[str, Any] = {"name": "web", "vip": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.11"}]}


@pytest.mark.parametrize("dataplane", ["iptables", "nftables"])
def test_what_only_ipvs_can_do_is_refused_by_the_others(dataplane: str) -> None:
    services = [WEB, {**WEB, "name": "b", "vip": "10.96.0.2", "scheduler": "rr", "forward_method": "direct"}]
    assert find_errors(services, {"dataplane": dataplane}) == [
        (
            f'service "b": scheduler is "rr": must be null with dataplane {dataplane}, which chooses at random by weight '
            "(schedulers need ipvs)"
        ),
        f'service "b": forward_method is "direct": must be masquerade with dataplane {dataplane} (direct and tunnel need ipvs)',
    ]
    assert find_errors(services, {"dataplane": "ipvs"}) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"dataplane": "x"}, 'dataplane is "x": must be one of iptables, ipvs, nftables'),
        ({"node": "node1"}, 'node is "node1": must be a dict'),
        (
            {"nodes": {}},
            '"nodes" is not a known key (its value is {}): did you mean node? allowed are node, dataplane%s',
        ),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidServices) as raised:
        find_errors([WEB], options)
    assert str(raised.value) == f"validate: {line.replace('%s', '')}"
    with pytest.raises(InvalidServices) as raised:
        render_services([WEB], options)
    assert str(raised.value) == f"render: {line.replace('%s', ', ip_version')}"


def test_what_is_rendered_for_a_family_that_there_is_not_is_one_line() -> None:
    with pytest.raises(InvalidServices) as raised:
        render_services([WEB], {"ip_version": "5"})
    assert str(raised.value) == 'render: ip_version is "5": must be one of ipv4, ipv6, both'


@pytest.mark.parametrize("ask", [registry.load, registry.presence])
def test_a_dataplane_is_known_by_its_name(ask: Any) -> None:
    names = ["Iptables", "Ipvs", "Nftables"]
    assert [type(ask(name)).__name__.replace("Presence", "") for name in registry.NAMES] == names
    with pytest.raises(InvalidServices) as raised:
        ask("x")
    assert str(raised.value) == 'dataplane is "x": not supported yet: must be iptables, ipvs, nftables'


def test_services_that_are_read_back_are_dicts_throughout() -> None:
    backend, refusal = ObservedDestination("10.0.0.1", 80, 1, "masquerade", 2, 3), Refusal(None, 30080, "drop", "why")
    service = ObservedVirtualService("web", "tcp", 80, ["10.96.0.1"], [], [], 30080, "rr", [backend], [refusal])
    (found,) = as_dicts([service])
    assert found["name"] == "web"
    assert found["backends"] == [backend._asdict()]
    assert found["refusals"] == [{"address": None, "port": 30080, "verdict": "drop", "reason": "why"}]


def test_what_connection_tracking_calls_a_packet() -> None:
    packet = Packet("192.0.2.1", "10.96.0.1", "tcp", 80, ())
    assert packet.states == ["NEW"]
    assert packet._replace(dnat=True).states == ["NEW", "DNAT"]
    assert packet._replace(dnat=True, snat="masquerade").states == ["NEW", "DNAT", "SNAT"]
    assert packet._replace(tracked=False, dnat=True).states == ["UNTRACKED"]
