# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the iptables and ipvs dataplanes share: names, the chains that masquerade, and a match in bytecode."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.masquerade import (
    mark_match,
    masquerade_chains,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import (
    SAME_ADDRESS,
    Layout,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import Mark, Node, parse_node

LAYOUT = Layout("L4")
END = [
    '-m comment --comment "not ours" -m mark ! --mark 0x4000/0x4000 -j RETURN',
    '-m comment --comment "so that it is not rewritten twice" -j MARK --set-xmark 0x4000/0x0',
]


def node(**given: Any) -> Node:
    return parse_node({"name": "node1", **given})


def header(source: str, destination: str) -> bytes:
    """The network header of a packet, with nothing in it but addresses."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    return bytes(12 if len(addresses) == 8 else 8) + addresses


def run(bytecode: str, packet: bytes) -> int:
    """The value of a program of classic BPF (Linux, Documentation/networking/filter.rst)."""
    count, *lines = bytecode.split(",")
    program = [tuple(map(int, line.split())) for line in lines]
    assert len(program) == int(count)
    accumulator = index = place = 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x20:  # ld [k]
            accumulator = int.from_bytes(packet[operand : operand + 4], "big")
        elif code == 0x07:  # tax
            index = accumulator
        elif code == 0x1D:  # jeq x
            place += if_true if accumulator == index else if_false
        else:
            assert code == 0x06  # ret k
            return operand


@pytest.mark.parametrize(
    ("family", "address", "others"),
    [
        ("ipv4", "10.1.2.3", ["10.1.2.4", "11.1.2.3"]),
        (
            "ipv6",
            "fd00:1:2:3:4:5:6:7",
            ["fd01:1:2:3:4:5:6:7", "fd00:1:2:4:4:5:6:7", "fd00:1:2:3:4:6:6:7", "fd00:1:2:3:4:5:6:8"],
        ),
    ],
)
def test_the_bytecode_tells_whether_a_packet_is_for_its_sender(family: str, address: str, others: list[str]) -> None:
    found = re.fullmatch('-m bpf --bytecode "([0-9 ,]+)"', SAME_ADDRESS[family])
    assert found
    assert run(found[1], header(address, address)) == 1
    assert [run(found[1], packet) for one in others for packet in (header(address, one), header(one, address))] == [
        0,
        0,
    ] * len(others)


def test_what_is_marked_is_masqueraded_unless_its_source_is_local() -> None:
    local = node(local_cidrs=["10.0.0.0/16", "10.2.0.0/16", "fd00::/64"])
    assert masquerade_chains(LAYOUT, local, "ipv4") == {
        ("nat", "L4-MARK-MASQ"): ['-m comment --comment "masquerade this packet" -j MARK --set-xmark 0x4000/0x4000'],
        ("nat", "L4-MARK-NONLOCAL"): [
            '-s 10.0.0.0/16 -m comment --comment "local source" -j RETURN',
            '-s 10.2.0.0/16 -m comment --comment "local source" -j RETURN',
            '-m comment --comment "no local source" -j L4-MARK-MASQ',
        ],
        ("nat", "L4-POSTROUTING"): [*END, '-m comment --comment "service traffic" -j MASQUERADE --random-fully'],
    }
    assert ("nat", "L4-MARK-NONLOCAL") not in masquerade_chains(LAYOUT, local._replace(masquerade_all=True), "ipv4")
    assert ("nat", "L4-MARK-NONLOCAL") not in masquerade_chains(LAYOUT, node(local_cidrs=["10.0.0.0/16"]), "ipv6")


@pytest.mark.parametrize(("family", "target"), [("ipv4", "SNAT --to-source 192.0.2.9"), ("ipv6", "MASQUERADE")])
def test_a_given_address_masquerades_its_family(family: str, target: str) -> None:
    chains = masquerade_chains(LAYOUT, node(snat_address="192.0.2.9"), family)
    assert chains["nat", "L4-POSTROUTING"] == [
        *END,
        f'-m comment --comment "service traffic" -j {target} --random-fully',
    ]


def test_a_mark_of_all_bits_is_printed_without_its_mask() -> None:
    assert [mark_match(Mark(1, mask)) for mask in (0xFFFFFFFF, 0xFF)] == ["0x1", "0x1/0xff"]


def test_chains_of_services_are_in_the_nat_table() -> None:
    name = LAYOUT.chain_name("SVC", "web")
    assert [LAYOUT.is_per_service(key) for key in (("nat", name), ("filter", name), ("nat", "L4-SERVICES"))] == [
        True,
        False,
        False,
    ]
