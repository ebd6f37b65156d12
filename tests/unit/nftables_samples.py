# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of nftables with everything that this collection can write, each rule beside the text that nft(8) has for it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Bits,
    Chain,
    Counter,
    Element,
    Elements,
    HasBits,
    Hook,
    InNetwork,
    InRange,
    InSet,
    Jhash,
    Mapped,
    Masquerade,
    Match,
    Nat,
    Notrack,
    Numgen,
    Operand,
    Reject,
    Rule,
    Set,
    SetField,
    SetHeader,
    Statement,
    Table,
    Update,
    Verdict,
    VerdictMap,
    type_of,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import TableId
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import (
    concatenated,
    network,
    number,
    pack,
)

NAME = "l4-service-proxy"
LOAD_BALANCED = Numgen("random", 100)


class Family(NamedTuple):
    """What differs between the families."""

    name: str
    vip: str
    backend: str
    aligned: str  # a network that ends between two bytes
    unaligned: str


FAMILIES = {
    "ip": Family("ip", "10.0.0.1", "192.0.2.1", "10.0.0.0/24", "10.0.0.0/12"),
    "ip6": Family("ip6", "fd00::1", "2001:db8::1", "fd00::/16", "fd00::/12"),
}


def table_id(family: str) -> TableId:
    return TableId(family, NAME)


def match(field: Operand, value: str, operator: str = "==") -> Match:
    return Match(field, pack(type_of(field), value), operator)


def address(text: str) -> bytes:
    return pack("ipv6_addr" if ":" in text else "ipv4_addr", text)


def port(number_of_port: int) -> bytes:
    return number_of_port.to_bytes(2, "big")


def service_key(vip: str, protocol: str, number_of_port: int) -> bytes:
    return concatenated([address(vip), pack("inet_proto", protocol), port(number_of_port)])


def service_fields(family: str) -> tuple[Operand, ...]:
    return f"{family} daddr", "meta l4proto", "th dport"


def affinity_fields(family: str) -> tuple[Operand, ...]:
    return (f"{family} saddr", *service_fields(family))


def rules(family: str) -> list[tuple[tuple[Statement, ...], str]]:
    """Return every kind of statement with its text."""
    return [*_choosing(family), *_matching(family), *_marking(family), *_ending(family)]


def _choosing(family: str) -> list[tuple[tuple[Statement, ...], str]]:
    here = FAMILIES[family]
    service, client = service_fields(family), affinity_fields(family)
    texts = f"{family} daddr . meta l4proto . th dport", f"{family} saddr . {family} daddr . meta l4proto . th dport"
    backend = Nat("dnat", Mapped((LOAD_BALANCED, *service), "backends"), True, family=family)
    again = Nat("dnat", Mapped(client, "affinity"), True, family=family)
    plain = Nat("dnat", Mapped((f"{family} daddr",), "addresses"), family=family)
    renewed = Update("update", "affinity", client, (f"{family} daddr", "th dport"))
    added = Update("add", "affinity", client, (address(here.backend), port(80)), 10000)
    forgotten = Update("delete", "affinity", client, (f"{family} daddr", "th dport"))
    data = f"{family} daddr . th dport"
    return [
        ((VerdictMap(service, "services"),), f"{texts[0]} vmap @services"),
        ((backend,), f"dnat {family} to numgen random mod 100 . {texts[0]} map @backends"),
        ((again,), f"dnat {family} to {texts[1]} map @affinity"),
        ((plain,), f"dnat to {family} daddr map @addresses"),
        ((renewed,), f"update @affinity {{ {texts[1]} : {data} }}"),
        ((added,), f"add @affinity {{ {texts[1]} timeout 10s : {here.backend} . 80 }}"),
        ((forgotten,), f"delete @affinity {{ {texts[1]} : {data} }}"),
    ]


def _matching(family: str) -> list[tuple[tuple[Statement, ...], str]]:
    here = FAMILIES[family]
    source, destination = f"{family} saddr", f"{family} daddr"
    low, high = port(30000), port(32767)
    marked = Match(Bits("meta mark", number(0x4000)), number(0x4000))
    return [
        (
            (match("fib daddr type", "local"), InSet((destination,), "networks")),
            f"fib daddr type local {destination} @networks",
        ),
        ((match("fib daddr . iif type", "local", "!="),), "fib daddr . iif type != local"),
        ((InSet((destination,), "networks", True),), f"{destination} != @networks"),
        ((InSet((source, destination), "hairpins"),), f"{source} . {destination} @hairpins"),
        ((InSet((destination, "th dport", source), "ranges"),), f"{destination} . th dport . {source} @ranges"),
        ((match(source, here.vip, "!="),), f"{source} != {here.vip}"),
        ((_in_network(source, here.aligned),), f"{source} {here.aligned}"),
        ((_in_network(source, here.aligned, True),), f"{source} != {here.aligned}"),
        ((_in_network(destination, here.unaligned, True),), f"{destination} != {here.unaligned}"),
        ((HasBits("ct status", pack("ct_status", "dnat")),), "ct status dnat"),
        ((HasBits("ct status", pack("ct_status", "dnat"), True),), "ct status ! dnat"),
        ((HasBits("ct state", pack("ct_state", "established,related")),), "ct state established,related"),
        ((match("ct direction", "original"), match("ct mark", "4")), "ct direction original ct mark 0x00000004"),
        ((match(f"ct original {destination}", here.vip),), f"ct original {destination} {here.vip}"),
        ((marked,), "meta mark & 0x00004000 == 0x00004000"),
        ((match("meta mark", "4", "!="),), "meta mark != 0x00000004"),
        ((match("iifname", "eth0"), match("oifname", "lo", "!=")), 'iifname "eth0" oifname != "lo"'),
        ((match("iifname", "eth*"),), 'iifname "eth*"'),
        ((match("meta pkttype", "host"), match("meta l4proto", "udp")), "meta pkttype host meta l4proto udp"),
        ((match("meta l4proto", "tcp"), InRange("th dport", low, high)), "tcp dport 30000-32767"),
        ((match("meta l4proto", "sctp"), InRange("th dport", low, high, True)), "sctp dport != 30000-32767"),
        ((match("meta l4proto", "tcp"), match("th sport", "1024", ">")), "tcp sport > 1024"),
        ((HasBits("tcp flags", pack("tcp_flag", "syn")),), "tcp flags syn"),
    ]


def _in_network(field: str, text: str, inverted: bool = False) -> InNetwork:
    base, _slash, length = text.partition("/")
    return InNetwork(field, address(base), int(length), inverted)


def _marking(family: str) -> list[tuple[tuple[Statement, ...], str]]:
    kept = number(0xFFFFBFFF)
    return [
        ((SetField("ct mark", number(4)),), "ct mark set 0x00000004"),
        ((SetField("meta mark", Bits("meta mark", kept, number(0x4000))),), "meta mark set meta mark | 0x00004000"),
        ((SetField("meta mark", Bits("meta mark", kept)),), "meta mark set meta mark & 0xffffbfff"),
        (
            (SetField("meta mark", "ct mark"), SetField("ct mark", "meta mark")),
            "meta mark set ct mark ct mark set meta mark",
        ),
        (
            (SetField("meta mark", Jhash((f"{family} saddr",), 2, 1)),),
            f"meta mark set jhash {family} saddr mod 2 seed 0x1",
        ),
        ((SetField("meta mark", Numgen("inc", 10, 1)),), "meta mark set numgen inc mod 10 offset 1"),
        ((SetField("meta mark", Mapped((f"{family} daddr",), "marks")),), f"meta mark set {family} daddr map @marks"),
    ]


def _ending(family: str) -> list[tuple[tuple[Statement, ...], str]]:
    here = FAMILIES[family]
    full = ("fully-random",)
    to_port = f"{here.backend}:80" if family == "ip" else f"[{here.backend}]:80"
    return [
        ((Masquerade(),), "masquerade"),
        ((Masquerade(full),), "masquerade fully-random"),
        ((Nat("snat", address(here.backend), flags=full, family=family),), f"snat to {here.backend} fully-random"),
        (
            (match("meta l4proto", "tcp"), Nat("dnat", address(here.backend), port(80), family=family)),
            f"meta l4proto tcp dnat to {to_port}",
        ),
        ((Nat("dnat", address(here.backend), family=family),), f"dnat to {here.backend}"),
        ((Reject(tcp_reset=True),), "reject with tcp reset"),
        ((Reject(),), "reject"),
        ((Counter(), Verdict("drop")), "counter drop"),
        ((Notrack(),), "notrack"),
        ((Verdict("jump", "nothing"),), "jump nothing"),
        ((Verdict("goto", "nothing"),), "goto nothing"),
        ((Verdict("return"),), "return"),
        ((Verdict("accept"),), "accept"),
        ((Verdict("continue"),), "continue"),
    ]


def sets(family: str) -> dict[str, Set]:
    """Return every kind of set and map."""
    here = FAMILIES[family]
    address_type = type_of(f"{family} daddr")
    service = service_fields(family)
    vip, backend = address(here.vip), address(here.backend)
    key = service_key(here.vip, "tcp", 80)
    target = concatenated([backend, port(8080)])
    services = {
        key: Element(Verdict("goto", "nothing"), "web"),
        service_key(here.vip, "udp", 53): Element(Verdict("drop")),
    }
    low = concatenated([vip, port(80), network(here.aligned)[: len(vip)]])
    high = concatenated([vip, port(90), network(here.aligned)[len(vip) :]])
    networks = {network(here.vip): Element(), network(here.unaligned): Element(comment="addresses")}
    return {
        "services": Set(
            SetHeader((address_type, "inet_proto", "inet_service"), ("verdict",), comment="by address"), services
        ),
        "backends": Set(
            SetHeader((LOAD_BALANCED, *service), (f"{family} daddr", "th dport")), {number(99) + key: Element(target)}
        ),
        "affinity": Set(
            SetHeader(
                affinity_fields(family), (f"{family} daddr", "th dport"), ("dynamic", "timeout"), 65535, 10_800_000
            ),
            {},
        ),
        "addresses": Set(SetHeader((address_type,), (address_type,)), {vip: Element(backend)}),
        "marks": Set(SetHeader((address_type,), ("mark",), comment="of services"), {vip: Element(number(7), "seven")}),
        "saved": Set(SetHeader(("ct id",), ("meta mark",), ("dynamic", "timeout"), 100, 5000), {}),
        "of-mark": Set(SetHeader(("ct mark",), (f"{family} daddr", "th dport")), {number(5): Element(target)}),
        "networks": Set(SetHeader((address_type,), flags=("interval",)), _apart(family, networks)),
        "ranges": Set(
            SetHeader((address_type, "inet_service", address_type), flags=("interval",)),
            {low + high: Element(comment="web")},
        ),
        "hairpins": Set(SetHeader((address_type, address_type)), {backend + backend: Element()}),
        "counted": Set(SetHeader((address_type,), size=100, counter=True), {vip: Element(comment="counted")}),
        "timed": Set(SetHeader((address_type,), flags=("timeout",)), {vip: Element(timeout=3_600_000)}),
        "timed-alike": Set(SetHeader((address_type,), flags=("timeout",), timeout=3_600_000), {vip: Element()}),
    }


def _apart(family: str, networks: dict[bytes, Element]) -> dict[bytes, Element]:
    """Return networks that do not overlap, the highest of which ends with the last address, and two side by side."""
    if family == "ip":
        texts = ["192.168.0.0/16", "172.16.0.0/12", "11.0.0.0/8", "12.0.0.0/8", "255.0.0.0/8"]
    else:
        texts = ["fc00::/8", "2001:db8::/32", "2001:db9::/32", "ff00::/8"]
    whole = {network(text): Element() for text in texts}
    (largest,) = (key for key, element in networks.items() if element.comment)
    return {**whole, largest: networks[largest]}


def chains(family: str) -> dict[str, Chain]:
    every = tuple(Rule(statements) for statements, _text in rules(family))
    return {
        "nothing": Chain(comment="leads nowhere"),
        "nat-prerouting": Chain(
            (Rule((VerdictMap(service_fields(family), "services"),), "services"),), Hook("nat", "prerouting", -100)
        ),
        "filter-forward": Chain((), Hook("filter", "forward", -5, "drop")),
        "every-statement": Chain(every),
    }


def table(family: str) -> Table:
    return Table(family, NAME, sets(family), chains(family), {}, "everything")


def many(services: int) -> dict[TableId, Table]:
    """Services with three backends each."""
    key = struct.Struct("!IB3xH2x").pack
    goto, chosen = Verdict("goto", "slots-3"), Numgen("random", 3)
    found: Elements = {}
    backends: Elements = {}
    for index in range(services):
        service = key(0x0A000000 + index, 6, 80)
        found[service] = Element(goto, f"service-{index}")
        for slot in range(3):
            backends[number(slot) + service] = Element(struct.pack("!IH2x", 0xC0000000 + 3 * index + slot, 8080))
    fields = service_fields("ip")
    sets = {
        "services": Set(SetHeader(("ipv4_addr", "inet_proto", "inet_service"), ("verdict",)), found),
        "backends": Set(SetHeader((chosen, *fields), ("ip daddr", "th dport")), backends),
    }
    chains = {
        "slots-3": Chain((Rule((Nat("dnat", Mapped((chosen, *fields), "backends"), True),)),)),
        "nat-output": Chain((Rule((VerdictMap(fields, "services"),)),), Hook("nat", "output", -100)),
    }
    return {table_id("ip"): Table("ip", NAME, sets, chains, {})}
