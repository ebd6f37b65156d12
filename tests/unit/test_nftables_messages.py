# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our messages of nftables: read again by ourselves, and by pyroute2's message classes, which are nobody's code here.

pyroute2 0.9 does not end on the sizes of fields of a concatenation with intervals, and has other names for the results of ``fib``; both
are left to the tests on the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink import nftsocket

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import nftables_answers as answers
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import nftables_messages as wire
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import attributes
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables_decoding import decode_rule
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables_rules import encode_rule
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Chain,
    Element,
    Hook,
    Jhash,
    Match,
    Rule,
    SetHeader,
    Statement,
    Update,
    Verdict,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    AddChain,
    AddElements,
    AddSet,
    AddTable,
    NftChange,
    ReplaceRules,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import network, number
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import address, rules, sets, table_id

IP = table_id("ip")
CLASSES = {
    wire.NEW_TABLE: nftsocket.nft_table_msg,
    wire.NEW_CHAIN: nftsocket.nft_chain_msg,
    wire.NEW_RULE: nftsocket.nft_rule_msg,
    wire.NEW_SET: nftsocket.nft_set_msg,
    wire.NEW_ELEMENT: nftsocket.nft_set_elem_list_msg,
}
EVERY_RULE = [(family, *rule) for family in ("ip", "ip6") for rule in rules(family)]


def witnessed(change: NftChange) -> Any:
    """Return what pyroute2 reads in the only message of a change."""
    (message,) = wire.encode_change(change)
    header = struct.pack("=IHHII", 16 + len(message.payload), 10 << 8 | message.kind, message.flags, 1, 0)
    read = CLASSES[message.kind](header + message.payload)
    read.decode()
    return read


def plain(value: Any) -> Any:
    """Return attributes as a dict of dicts."""
    if hasattr(value, "get_attrs") or (isinstance(value, dict) and "attrs" in value):
        return {name: plain(content) for name, content in value["attrs"]}
    if isinstance(value, list) and value and all(isinstance(one, tuple) for one in value):
        return {one[0]: plain(one[1]) for one in value}
    return [plain(one) for one in value] if isinstance(value, list) else value


def expressions(*statements: Statement) -> list[tuple[str, Any]]:
    """Return the name of each expression that pyroute2 reads, and what it is about."""
    read = witnessed(ReplaceRules(IP, "chain", (), (Rule(statements),)))
    found = [plain(one) for one in read.get_attr("NFTA_RULE_EXPRESSIONS")]
    return [(one["NFTA_EXPR_NAME"], one.get("NFTA_EXPR_DATA", {})) for one in found]


@pytest.mark.parametrize(
    ("family", "statements", "text"), EVERY_RULE, ids=[f"{one[0]}: {one[2]}" for one in EVERY_RULE]
)
def test_a_rule_is_read_again(family: str, statements: tuple[Statement, ...], text: str) -> None:
    assert decode_rule(encode_rule(statements, family), family) == statements, text


def test_service_lookup_as_pyroute2_reads_it() -> None:
    (statements,) = (found for found, text in rules("ip") if text.endswith("vmap @services"))
    payload = {"NFTA_PAYLOAD_BASE": "NFT_PAYLOAD_NETWORK_HEADER", "NFTA_PAYLOAD_OFFSET": 16, "NFTA_PAYLOAD_LEN": 4}
    port = {"NFTA_PAYLOAD_BASE": "NFT_PAYLOAD_TRANSPORT_HEADER", "NFTA_PAYLOAD_OFFSET": 2, "NFTA_PAYLOAD_LEN": 2}
    assert expressions(*statements) == [
        ("payload", {"NFTA_PAYLOAD_DREG": "NFT_REG32_00", **payload}),
        ("meta", {"NFTA_META_KEY": "NFT_META_L4PROTO", "NFTA_META_DREG": "NFT_REG32_01"}),
        ("payload", {"NFTA_PAYLOAD_DREG": "NFT_REG32_02", **port}),
        (
            "lookup",
            {"NFTA_LOOKUP_SET": "services", "NFTA_LOOKUP_SREG": "NFT_REG32_00", "NFTA_LOOKUP_DREG": "NFT_REG_VERDICT"},
        ),
    ]


def test_choice_of_a_backend_as_pyroute2_reads_it() -> None:
    (statements,) = (found for found, text in rules("ip") if text.endswith("map @backends"))
    chosen = expressions(*statements)
    assert chosen[0] == (
        "numgen",
        {"NFTA_NG_DREG": "NFT_REG32_00", "NFTA_NG_MODULUS": 100, "NFTA_NG_TYPE": "NFT_NG_RANDOM", "NFTA_NG_OFFSET": 0},
    )
    assert chosen[-1] == (
        "nat",
        {
            "NFTA_NAT_TYPE": "NFT_NAT_DNAT",
            "NFTA_NAT_FAMILY": 2,
            "NFTA_NAT_REG_ADDR_MIN": "NFT_REG32_00",
            "NFTA_NAT_REG_PROTO_MIN": "NFT_REG32_01",
        },
    )


def test_comparisons_and_bits_as_pyroute2_reads_them() -> None:
    (statements,) = (found for found, text in rules("ip") if text == "ct state established,related")
    (_state, bits), (_mask, masked), (_cmp, compared) = expressions(*statements)
    assert bits["NFTA_CT_KEY"] == "NFT_CT_STATE"
    assert masked["NFTA_BITWISE_MASK"] == {"NFTA_DATA_VALUE": number(6)}
    assert (compared["NFTA_CMP_OP"], compared["NFTA_CMP_DATA"]) == ("NFT_CMP_NEQ", {"NFTA_DATA_VALUE": number(0)})


def test_verdicts_as_pyroute2_reads_them() -> None:
    for action, code in (("jump", "NFT_JUMP"), ("goto", "NFT_GOTO")):
        (found,) = expressions(Verdict(action, "chain"))
        verdict = found[1]["NFTA_IMMEDIATE_DATA"]["NFTA_DATA_VERDICT"]
        assert verdict == {"NFTA_VERDICT_CODE": code, "NFTA_VERDICT_CHAIN": "chain"}


def test_chains_and_tables_as_pyroute2_reads_them() -> None:
    chain = plain(witnessed(AddChain(IP, "out", Chain((), Hook("nat", "output", -100, "drop"), "here"))))
    assert chain["NFTA_CHAIN_HOOK"] == {"NFTA_HOOK_HOOKNUM": 3, "NFTA_HOOK_PRIORITY": -100}
    assert (chain["NFTA_CHAIN_TYPE"], chain["NFTA_CHAIN_POLICY"], chain["NFTA_CHAIN_USERDATA"]) == ("nat", 0, "here")
    assert plain(witnessed(AddTable(IP, "all")))["NFTA_TABLE_USERDATA"] == "all"


def test_sets_as_pyroute2_reads_them() -> None:
    affinity = plain(witnessed(AddSet(IP, "affinity", sets("ip")["affinity"].header)))
    assert affinity["NFTA_SET_FLAGS"] == {"NFT_SET_MAP", "NFT_SET_TIMEOUT", "NFT_SET_EVAL"}
    assert (affinity["NFTA_SET_KEY_LEN"], affinity["NFTA_SET_DATA_LEN"], affinity["NFTA_SET_TIMEOUT"]) == (
        16,
        8,
        10_800_000,
    )
    assert affinity["NFTA_SET_DESC"] == {"NFTA_SET_DESC_SIZE": 65535}
    services = plain(witnessed(AddSet(IP, "services", sets("ip")["services"].header)))
    assert services["NFTA_SET_DATA_TYPE"] == 0xFFFFFF00
    assert services["NFTA_SET_USERDATA"]["NFTNL_UDATA_SET_COMMENT"] == b"by address"


def test_elements_as_pyroute2_reads_them() -> None:
    held = sets("ip")["services"]
    read = plain(witnessed(AddElements(IP, "services", held.header, held.elements)))
    web = read["NFTA_SET_ELEM_LIST_ELEMENTS"][0]
    assert web["NFTA_SET_ELEM_KEY"] == {"NFTA_DATA_VALUE": address("10.0.0.1") + b"\6\0\0\0\0\x50\0\0"}
    assert web["NFTA_SET_ELEM_DATA"]["NFTA_DATA_VERDICT"]["NFTA_VERDICT_CHAIN"] == "nothing"
    assert web["NFTA_SET_ELEM_USERDATA"] == {"NFTNL_UDATA_SET_ELEM_COMMENT": b"web"}


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_sets_and_elements_are_read_again(family: str) -> None:
    for name, held in sets(family).items():
        (message,) = wire.encode_change(AddSet(table_id(family), name, held.header))
        header = answers.decode_header(attributes(message.payload[4:]))
        assert header == held.header
        change = AddElements(table_id(family), name, held.header, held.elements)
        lists = [attributes(one.payload[4:])[wire.ELEMENTS] for one in wire.encode_change(change)]
        assert answers.decode_elements(header, lists) == held.elements


def test_many_elements_travel_in_messages_that_an_attribute_holds() -> None:
    header = SetHeader(("ipv4_addr",))
    elements = {number(index): Element(comment=f"service-{index}") for index in range(5000)}
    messages = list(wire.encode_change(AddElements(IP, "many", header, elements)))
    assert len(messages) > 2
    assert max(len(message.payload) for message in messages) < 0xFFFF
    lists = [attributes(message.payload[4:])[wire.ELEMENTS] for message in messages]
    assert answers.decode_elements(header, lists) == elements


@pytest.mark.parametrize(
    "texts", [["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"], ["10.0.0.0/8", "11.0.0.0/8", "255.255.255.255"]]
)
def test_intervals_at_the_ends_and_side_by_side_are_read_again(texts: list[str]) -> None:
    header = SetHeader(("ipv4_addr",), flags=("interval",))
    elements = {network(text): Element() for text in texts}
    lists = [
        attributes(one.payload[4:])[wire.ELEMENTS] for one in wire.encode_change(AddElements(IP, "x", header, elements))
    ]
    assert answers.decode_elements(header, lists) == elements


def test_an_order_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="no order"):
        encode_rule((Match("meta mark", number(4), ">"),), "ip")


def test_a_key_that_nft_cannot_list_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot list"):
        list(wire.encode_change(AddSet(IP, "hashed", SetHeader((Jhash(("ip saddr",), 2), "ip daddr")))))


def test_a_rule_of_the_other_family_is_refused() -> None:
    (statements,) = (found for found, text in rules("ip6") if text.endswith("map @backends"))
    with pytest.raises(ValueError, match="family"):
        encode_rule(statements, "ip")


def test_a_reset_brings_its_protocol_with_it() -> None:
    (statements,) = (found for found, text in rules("ip") if text == "reject with tcp reset")
    assert [name for name, _content in expressions(*statements)] == ["meta", "cmp", "reject"]


def test_a_key_that_its_data_overwrites_is_not_taken_for_ours() -> None:
    """So does nft 1.0.6 compile an update of a map with an address of IPv6 behind something else in its key."""
    statement = Update("update", "clients", ("ct mark", "ip6 saddr"), ("meta mark",))
    encoded = encode_rule((statement,), "ip6")
    assert decode_rule(encoded, "ip6") == (statement,)
    behind, within = (struct.pack(">I", 8 + index) for index in (5, 4))
    assert encoded.count(behind) == 2
    assert decode_rule(encoded.replace(behind, within), "ip6") != (statement,)


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([100], 100),
        ([70_000, 100_000, 100_000], 100_000),
        ([100_000, 70_000, 90_000, 100_000, 100_000], 100_000),
        ([100_000, 100_000], 100_000),
        (range(100_000, 120_000), 100_010),
    ],
)
def test_many_elements_are_what_two_readings_in_a_row_tell(
    monkeypatch: pytest.MonkeyPatch, readings: Iterable[int], expected: int
) -> None:
    """A reading misses some while the kernel makes the hash table larger. Where packets add elements all the time, there is an end."""
    told = iter(readings)
    monkeypatch.setattr(Nftables, "lists", lambda *_: [bytes(next(told))])
    monkeypatch.setattr(answers, "decode_elements", lambda _header, lists: sum(map(len, lists)))
    header: Any = None
    size: Any = Nftables().elements(IP, "services", header)
    assert size == expected
