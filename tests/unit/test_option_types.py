# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said of settings that do not have the type of their option: one line each, with the value and what is allowed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import SPECIFICATION, Settings
from ansible_collections.layer4.service_proxy.plugins.plugin_utils._option_types import wrong_types

ROUTER = {"address": "10.0.0.1", "asn": 65001}
A_ROUTER = "a dict with the keys address (required), asn (required), bfd"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("flow_offload", {"a": 1}, 'flow_offload is {"a": 1}: must be a list, each item a string'),
        ("dataplane", "NFTables", 'dataplane is "NFTables": must be one of iptables, ipvs, nftables'),
        ("dataplane", ["nftables"], 'dataplane is ["nftables"]: must be one of iptables, ipvs, nftables'),
        ("state", date(2024, 1, 2), 'state is "2024-01-02": must be one of present, absent'),
        ("name", {"a": 1}, 'name is {"a": 1}: must be a string'),
        ("masquerade_mark", ["0x1"], 'masquerade_mark is ["0x1"]: must be a string'),
        ("vrrp_id", "x", 'vrrp_id is "x": must be an integer'),
        ("conntrack_max", True, "conntrack_max is true: must be an integer"),
        ("exclusive", "many", 'exclusive is "many": must be true or false'),
        ("bgp_neighbors", "10.0.0.1", f'bgp_neighbors is "10.0.0.1": must be a list, each item {A_ROUTER}'),
        ("bgp_neighbors", [ROUTER, "x"], f'bgp_neighbors[1] is "x": must be {A_ROUTER}'),
        ("bgp_neighbors", [{"asn": 1}], f'bgp_neighbors[0] is {{"asn": 1}}: must be {A_ROUTER}'),
        ("bgp_neighbors", [{**ROUTER, "asn": "x"}], 'bgp_neighbors[0]: asn is "x": must be an integer'),
        (
            "bgp_neighbors",
            [{**ROUTER, "bdf": True}],
            'bgp_neighbors[0]: "bdf" is not a known key (its value is true): did you mean bfd? allowed are address, asn, bfd',
        ),
        (
            "bridges",
            [{"name": "br0", "ports": {"a": 1}}],
            'bridges[0]: ports is {"a": 1}: must be a list, each item a string',
        ),
    ],
)
def test_a_wrong_type_is_one_line_with_value_and_what_is_allowed(name: str, value: Any, line: str) -> None:
    assert wrong_types(SPECIFICATION, {name: value}) == [line]


def test_what_ansible_converts_is_right() -> None:
    """Inventories of INI, and -e, give texts."""
    given = {
        "conntrack_max": "65536",
        "exclusive": "no",
        "local_cidrs": "10.0.0.0/24,10.0.1.0/24",
        "bgp_neighbors": [{**ROUTER, "asn": "65001", "bfd": "yes"}],
        "bridges": [{"name": "br0", "ports": None}],
        "masquerade_mark": 0x4000,
    }
    assert wrong_types(SPECIFICATION, given) == []


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("conntrack_max", -1, "0 to 2147483647"),
        ("conntrack_max", 1 << 31, "0 to 2147483647"),
        ("conntrack_tcp_timeout_established", 0, "1 to 2147483"),
        ("conntrack_tcp_timeout_close_wait", 2147484, "1 to 2147483"),
    ],
)
def test_a_number_that_no_sysctl_takes_is_told(name: str, value: int, allowed: str) -> None:
    assert Settings({name: value}).problems() == [f"service_proxy_{name} is {value}: must be an integer from {allowed}"]


def test_numbers_at_both_ends_are_taken() -> None:
    for most in (2147483647, 0):
        assert Settings({"conntrack_max": most, "conntrack_tcp_timeout_established": 2147483}).problems() == []
