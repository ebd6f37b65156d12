# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pyroute2 reads in our netlink messages what was meant, and we read in its messages what it wrote.

The code that runs on hosts encodes for itself; pyroute2 knows the protocols from elsewhere, and so is a witness.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.ipvs import ipvsmsg
from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink.ipset import ipset_msg
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import (
    conntrack,
    dummy,
    ipset_messages,
    ipvs_messages,
    overlay_messages,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.conntrack import Conntrack
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.dummy import Device
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipset import Ipset
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    PROTOCOLS,
    SET_TYPES,
    Entry,
    SetHeader,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Destination,
    ServiceKey,
    SetDestination,
    SetService,
    Timeouts,
    VirtualService,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.overlay import (
    Forwarding,
    Neighbour,
    Route,
    Tunnel,
)

IPSET_SUBSYSTEM, CONNTRACK_SUBSYSTEM = 6 << 8, 1 << 8
NLM_F_CREATE, NLM_F_EXCL = 0x400, 0x200


def spelled(address: str) -> str:
    """As inet_ntop(3) spells it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


v4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
v6 = st.integers(0, 2**128 - 1).map(lambda number: spelled(str(IPv6Address(number))))
addresses = v4 | v6
u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
names = st.text("abcz09-_.", min_size=1, max_size=31)


def read(kind: Any, payload: bytes, number: int = 0) -> Any:
    """A message of pyroute2's from what follows the netlink header. number: the message's type."""
    message = kind(struct.pack("=IHHII", 16 + len(payload), number, 0, 1, 0) + payload)
    message.decode()
    return message


def written(kind: Any, number: int = 0, **values: Any) -> bytes:
    """What follows the netlink header in a message that pyroute2 writes."""
    message = kind()
    message["header"]["type"] = number
    for name, value in values.items():
        message[name] = value
    message.encode()
    return bytes(message.data[16:])


def tree(nested: Any) -> dict[str, Any]:
    """Attributes by their names, nested ones as such trees."""
    found: dict[str, Any] = {}
    for name, value in nested["attrs"]:
        inner = tree(value) if isinstance(value, dict) and "attrs" in value else value
        assert name not in found, f"{name} is there twice"
        found[name] = inner
    return found


class Recorder:
    """Stands for a NetlinkSocket: keeps type, flags and payload of each request, and answers a look-up of a link."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, bytes]] = []

    def request(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        self.sent.append((kind, flags, payload))
        return [struct.pack("=BxHiII", 0, 1, 7, 0, 0)]

    def execute(self, kind: int, flags: int, payload: bytes) -> None:
        self.request(kind, flags, payload)

    def execute_block(self, kind: int, flags: int, payloads: list[bytes]) -> dict[int, int]:
        for payload in payloads:
            self.request(kind, flags, payload)
        return {}

    def changes(self, reading: int) -> list[tuple[int, int, bytes]]:
        return [request for request in self.sent if request[0] != reading]


macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
u24 = st.integers(1, 2**24 - 1)


@given(st.builds(Tunnel, u24, u16, addresses, macs, st.integers(68, 65535), st.booleans(), st.booleans()))
def test_a_tunnel(tunnel: Tunnel) -> None:
    found = tree(read(ifinfmsg, overlay_messages.new_tunnel(tunnel), 16))
    settings = found["IFLA_LINKINFO"]["IFLA_INFO_DATA"]
    local = "IFLA_VXLAN_LOCAL6" if ":" in tunnel.local else "IFLA_VXLAN_LOCAL"
    assert (found["IFLA_IFNAME"], found["IFLA_ADDRESS"], found["IFLA_MTU"]) == ("l4-vxlan0", tunnel.mac, tunnel.mtu)
    assert found["IFLA_LINKINFO"]["IFLA_INFO_KIND"] == "vxlan"
    assert (settings["IFLA_VXLAN_ID"], settings["IFLA_VXLAN_LEARNING"]) == (tunnel.id, tunnel.learning)
    assert (settings["IFLA_VXLAN_PORT"], ip_address(settings[local])) == (tunnel.port, ip_address(tunnel.local))
    assert overlay_messages.read_link(overlay_messages.new_tunnel(tunnel)).tunnel == tunnel._replace(is_up=False)
    edited = read(ifinfmsg, overlay_messages.edited_tunnel(7, tunnel), 16)
    assert (edited["index"], edited["flags"], edited["change"]) == (7, int(tunnel.is_up), 1)
    assert {"IFLA_ADDRESS": tunnel.mac, "IFLA_MTU": tunnel.mtu}.items() <= tree(edited).items()


@given(addresses, macs, addresses)
def test_neighbours_and_forwarding_entries(address: str, mac: str, remote: str) -> None:
    neighbour, entry = Neighbour(address, mac), Forwarding(mac, remote)
    found = read(ndmsg, overlay_messages.neighbour_message(neighbour, 7), 28)
    assert (found["ifindex"], found["state"]) == (7, 0x80)
    assert (ip_address(tree(found)["NDA_DST"]), tree(found)["NDA_LLADDR"]) == (ip_address(address), mac)
    assert overlay_messages.read_neighbour(overlay_messages.neighbour_message(neighbour, 7), 7) == neighbour
    assert overlay_messages.read_neighbour(overlay_messages.neighbour_message(neighbour, 7), 8) is None
    assert overlay_messages.read_forwarding(overlay_messages.forwarding_message(entry, 7), 7) == entry
    family, index, state, flags = struct.unpack_from("=BxxxiHB", overlay_messages.forwarding_message(entry, 7))
    assert (family, index, state, flags) == (7, 7, 0xC0, 2)


@given(addresses, st.data(), st.booleans(), u32)
def test_routes(address: str, data: Any, onlink: bool, metric: int) -> None:
    family = 6 if ":" in address else 4
    length = data.draw(st.integers(0, 32 if family == 4 else 128))
    gateway = data.draw(v4 if family == 4 else v6)
    route = Route(f"{address}/{length}", gateway, "eth0", metric, onlink)
    payload = overlay_messages.route_message(route, 7)
    found = read(rtmsg, payload, 24)
    assert (found["dst_len"], found["table"], found["proto"], found["type"]) == (length, 254, 76, 1)
    assert (found["flags"], tree(found)["RTA_OIF"]) == (4 if onlink else 0, 7)
    assert [ip_address(tree(found)[name]) for name in ("RTA_DST", "RTA_GATEWAY")] == [
        ip_address(address),
        ip_address(gateway),
    ]
    assert overlay_messages.read_route(payload, {7: "eth0"}) == route
    deleted = tree(read(rtmsg, overlay_messages.route_to_delete(route), 25))
    assert "RTA_GATEWAY" not in deleted


# rtnetlink


@pytest.fixture
def device() -> Device:
    made = Device.__new__(Device)
    made.name = "l4-ipvs0"
    made._netlink = cast(Any, Recorder())
    return made


@given(addresses, st.integers(1, 2**31 - 1))
def test_an_address_of_the_device(address: str, index: int) -> None:
    message = read(ifaddrmsg, dummy._address_message(address, index))
    version = ip_address(address).version
    family, length = {4: (socket.AF_INET, 32), 6: (socket.AF_INET6, 128)}[version]
    assert (message["family"], message["prefixlen"], message["scope"], message["index"]) == (family, length, 0, index)
    found = tree(message)
    assert {ip_address(found.pop(name)) for name in ("IFA_LOCAL", "IFA_ADDRESS")} == {ip_address(address)}
    if version == 4:
        assert found == {}
        return
    assert found.pop("IFA_FLAGS") == 0x2 | 0x200
    lifetimes = found.pop("IFA_CACHEINFO")
    assert (lifetimes["ifa_preferred"], lifetimes["ifa_valid"]) == (0, 2**32 - 1)
    assert found == {}


def test_the_device_is_made_without_addresses_of_its_own(device: Device) -> None:
    device.create()
    recorder = cast(Any, device._netlink)
    (new, flags, first), (_same, _none, second), (_also, _no, third) = recorder.changes(reading=18)
    assert (new, flags) == (16, NLM_F_CREATE | NLM_F_EXCL)
    made, mode, up = (read(ifinfmsg, payload, 16) for payload in (first, second, third))
    assert made.get_attr("IFLA_IFNAME") == "l4-ipvs0"
    assert made.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "dummy"
    assert mode["index"] == up["index"] == 7
    assert tree(mode)["IFLA_AF_SPEC"]["AF_INET6"]["IFLA_INET6_ADDR_GEN_MODE"] == 1
    assert (up["flags"], up["change"], tree(up)) == (1, 1, {})


def test_the_device_is_set_down_and_deleted(device: Device) -> None:
    device.set_up(False)
    device.delete()
    recorder = cast(Any, device._netlink)
    (_new, _flags, down), (gone, _none, payload) = recorder.changes(reading=18)
    message = read(ifinfmsg, down, 16)
    assert (message["index"], message["flags"], message["change"]) == (7, 0, 1)
    assert gone == 17
    assert read(ifinfmsg, payload, 17)["index"] == 7


@given(st.lists(addresses, max_size=130))
def test_addresses_come_and_go_in_order(wanted: list[str]) -> None:
    device = Device.__new__(Device)
    device.name, recorder = "l4-ipvs0", Recorder()
    device._netlink = cast(Any, recorder)
    device.add(wanted)
    device.remove(wanted)
    sent = recorder.changes(reading=18)
    kinds = [(kind, flags) for kind, flags, _payload in sent]
    assert kinds == [(20, NLM_F_CREATE | NLM_F_EXCL)] * len(wanted) + [(21, 0)] * len(wanted)
    found = [read(ifaddrmsg, payload).get_attr("IFA_LOCAL") for _kind, _flags, payload in sent]
    assert [ip_address(one) for one in found] == [ip_address(one) for one in wanted * 2]


# ipset


def ports_of(text: str) -> tuple[int, int]:
    """Protocol number and port of ``tcp:80``, ``icmp:8/0`` or ``47:0``, as ipset(8) describes them."""
    protocol, _colon, port = text.partition(":")
    number = PROTOCOLS[protocol] if protocol in PROTOCOLS else int(protocol)
    kind, slash, code = port.partition("/")
    return number, int(kind) * 256 + int(code) if slash else int(port)


@st.composite
def elements(draw: st.DrawFn, type_name: str) -> str:
    """An element of a set of this type, as ``ipset save`` spells it."""
    address, longest = draw(st.sampled_from([(v4, 32), (v6, 128)]))
    parts = []
    for part in SET_TYPES[type_name].parts:
        if part == "set":
            parts.append(draw(names))
        elif part == "port":
            kinds = [
                st.sampled_from(["tcp", "udp", "sctp", "udplite"]).flatmap(lambda p: u16.map(lambda n: f"{p}:{n}"))
            ]
            kinds.append(st.tuples(st.sampled_from(["icmp", "icmpv6"]), u8, u8).map(lambda t: f"{t[0]}:{t[1]}/{t[2]}"))
            kinds.append(st.sampled_from(["47:0", "2:0"]))
            parts.append(str(draw(u16)) if type_name == "bitmap:port" else draw(st.one_of(kinds)))
        else:
            length = draw(st.integers(1, longest)) if part == "net" else longest
            parts.append(draw(address) + (f"/{length}" if length < longest else ""))
    return ",".join(parts)


def optional(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | numbers


entries = st.sampled_from(sorted(SET_TYPES)).flatmap(
    lambda type_name: st.tuples(
        st.just(type_name),
        st.builds(
            Entry,
            elements(type_name),
            timeout=optional(st.integers(0, 2147483)),
            comment=optional(st.text("abc ü:", min_size=1, max_size=40)),
            packets=optional(st.integers(0, 2**64 - 1)),
            bytes=optional(st.integers(0, 2**64 - 1)),
            nomatch=st.booleans(),
        ),
    )
)


def expected_element(type_name: str, element: str) -> dict[str, Any]:
    """The attributes of an element, in pyroute2's names."""
    found: dict[str, Any] = {}
    suffix = ""
    for part, text in zip(SET_TYPES[type_name].parts, element.split(",")):
        if part == "set":
            return {"IPSET_ATTR_NAME": text}
        if type_name == "bitmap:port":
            return {"IPSET_ATTR_PORT_FROM": int(text)}
        if part == "port":
            found["IPSET_ATTR_PROTO"], found["IPSET_ATTR_PORT_FROM"] = ports_of(text)
            continue
        address, _slash, length = text.partition("/")
        version = ip_address(address).version
        found[f"IPSET_ATTR_IP{suffix or '_FROM'}"] = {f"IPSET_ATTR_IPADDR_IPV{version}": address}
        if part == "net":
            found[f"IPSET_ATTR_CIDR{suffix}"] = int(length or {4: 32, 6: 128}[version])
        suffix = "2"
    return found


def expected_entry(type_name: str, entry: Entry) -> dict[str, Any]:
    found = expected_element(type_name, entry.element)
    optional_fields = {
        "IPSET_ATTR_TIMEOUT": entry.timeout,
        "IPSET_ATTR_CADT_FLAGS": 1 << 2 if entry.nomatch else None,
        "IPSET_ATTR_COMMENT": entry.comment,
        "IPSET_ATTR_PACKETS": entry.packets,
        "IPSET_ATTR_BYTES": entry.bytes,
    }
    return {**found, **{name: value for name, value in optional_fields.items() if value is not None}}


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """With addresses in one spelling."""
    return {
        name: plain(value) if isinstance(value, dict) else spelled(value) if "IPADDR" in name else value
        for name, value in found.items()
    }


@given(entries, st.integers(0, 2**31))
def test_an_entry_of_a_set(case: tuple[str, Entry], line: int) -> None:
    type_name, entry = case
    nested = ipset_messages.encode_entry(SET_TYPES[type_name].parts, entry, line)
    payload = struct.pack("=BBH", socket.AF_INET, 0, 0) + nested
    found = tree(read(ipset_msg, payload, IPSET_SUBSYSTEM | 9))["IPSET_ATTR_DATA"]
    assert struct.pack(">I", found.pop("IPSET_ATTR_CADT_LINENO")) == struct.pack("=I", line)  # the host's byte order
    assert plain(found) == expected_entry(type_name, entry)


@given(entries)
def test_an_entry_that_pyroute2_wrote(case: tuple[str, Entry]) -> None:
    type_name, entry = case
    attrs = [
        (name, {"attrs": list(value.items())} if isinstance(value, dict) else value)
        for name, value in expected_entry(type_name, entry).items()
    ]
    payload = written(ipset_msg, IPSET_SUBSYSTEM | 9, attrs=[("IPSET_ATTR_DATA", {"attrs": attrs})])
    data = dict(ipset_messages.each_attribute(payload[4:]))[ipset_messages.ATTR_DATA]
    assert ipset_messages.entry_decoder(SetHeader("s", type_name))(data) == entry


headers = st.builds(
    SetHeader,
    names,
    st.sampled_from([name for name in sorted(SET_TYPES) if SET_TYPES[name].has_family]),
    st.sampled_from(["ipv4", "ipv6"]),
    timeout=optional(st.integers(0, 2147483)),
    counters=st.booleans(),
    comment=st.booleans(),
    hashsize=optional(u32),
    maxelem=optional(u32),
    bucketsize=optional(u8),
    forceadd=st.booleans(),
    revision=st.integers(0, 9),
)


@given(headers)
def test_a_set(header: SetHeader) -> None:
    ipset = Ipset.__new__(Ipset)
    recorder = Recorder()
    ipset._netlink = cast(Any, recorder)
    ipset._with_revision = lambda header: header.revision  # type: ignore[method-assign,assignment,return-value]
    ipset.create(header)
    ((kind, flags, payload),) = recorder.sent
    assert (kind, flags) == (IPSET_SUBSYSTEM | 2, NLM_F_CREATE | NLM_F_EXCL)
    found = tree(read(ipset_msg, payload, kind))
    settings = found.pop("IPSET_ATTR_DATA")
    assert found == {
        "IPSET_ATTR_PROTOCOL": 6,
        "IPSET_ATTR_SETNAME": header.name,
        "IPSET_ATTR_TYPENAME": header.type,
        "IPSET_ATTR_REVISION": header.revision,
        "IPSET_ATTR_FAMILY": {"ipv4": 2, "ipv6": 10}[header.family],
    }
    flag_bits = header.counters << 3 | header.comment << 4 | header.forceadd << 5
    expected = {
        "IPSET_ATTR_CADT_FLAGS": flag_bits or None,
        "IPSET_ATTR_TIMEOUT": header.timeout,
        "IPSET_ATTR_HASHSIZE": header.hashsize,
        "IPSET_ATTR_MAXELEM": header.maxelem,
        "IPSET_ATTR_BUCKETSIZE": header.bucketsize,
    }
    assert settings == {name: value for name, value in expected.items() if value is not None}


@given(headers, u32)
def test_a_set_that_pyroute2_wrote(header: SetHeader, references: int) -> None:
    settings = {
        "IPSET_ATTR_CADT_FLAGS": header.counters << 3 | header.comment << 4 | header.forceadd << 5,
        "IPSET_ATTR_REFERENCES": references,
        "IPSET_ATTR_TIMEOUT": header.timeout,
        "IPSET_ATTR_HASHSIZE": header.hashsize,
        "IPSET_ATTR_MAXELEM": header.maxelem,
        "IPSET_ATTR_BUCKETSIZE": header.bucketsize,
    }
    given_settings = [(name, value) for name, value in settings.items() if value is not None]
    attrs = [
        ("IPSET_ATTR_SETNAME", header.name),
        ("IPSET_ATTR_TYPENAME", header.type),
        ("IPSET_ATTR_REVISION", header.revision),
        ("IPSET_ATTR_FAMILY", {"ipv4": 2, "ipv6": 10}[header.family]),
        ("IPSET_ATTR_DATA", {"attrs": given_settings}),
    ]
    payload = written(ipset_msg, IPSET_SUBSYSTEM | 7, attrs=attrs)
    held = ipset_messages.decode_header(dict(ipset_messages.each_attribute(payload[4:])))
    assert (held.header, held.references, held.extensions, held.entries) == (header, references, (), {})
    assert held.header.revision == header.revision


# IPVS

ports = u16
families = st.sampled_from(["ipv4", "ipv6"])


def of_family(family: str) -> st.SearchStrategy[str]:
    return v4 if family == "ipv4" else v6


keys = families.flatmap(
    lambda family: (
        st.builds(
            ServiceKey, st.just(family), st.sampled_from(["tcp", "udp", "sctp"]), of_family(family), ports, st.just(0)
        )
        | st.builds(ServiceKey, st.just(family), st.just(""), st.just(""), st.just(0), st.integers(1, 2**32 - 1))
    )
)


@st.composite
def services(draw: st.DrawFn) -> VirtualService:
    key, scheduler = draw(keys), draw(st.sampled_from(["rr", "wlc", "sh", "mh"]))
    known = {"sh": ["sh-fallback", "sh-port"], "mh": ["mh-fallback", "mh-port"]}.get(scheduler, ["flag-1", "flag-3"])
    flags = tuple(sorted(draw(st.sets(st.sampled_from(known)))))
    longest = 32 if key.family == "ipv4" else 128
    persistence = draw(st.integers(0, 2**31))
    netmask = draw(st.integers(1, longest)) if persistence else longest
    engine = draw(st.sampled_from(["", "sip"]))
    return VirtualService(key, scheduler, flags, persistence, netmask, draw(st.booleans()), engine)


destinations = st.builds(
    Destination,
    addresses,
    ports,
    st.sampled_from(["masquerade", "tunnel", "direct"]),
    weight=st.integers(0, 2**31 - 1),
    upper_threshold=u32,
    lower_threshold=u32,
    tunnel=st.just((0, 0, 0)) | st.tuples(st.sampled_from([1, 2]), ports, st.integers(0, 2)),
)
SCHEDULER_BITS = {
    "sh-fallback": 8,
    "sh-port": 16,
    "mh-fallback": 8,
    "mh-port": 16,
    "flag-1": 8,
    "flag-2": 16,
    "flag-3": 32,
}
METHODS = {"masquerade": 0, "tunnel": 2, "direct": 3}


def ipvs(payload: bytes) -> tuple[int, dict[str, Any]]:
    """Command and attributes."""
    message = read(ipvsmsg, payload)
    return message["cmd"], tree(message)


def expected_key(key: ServiceKey) -> dict[str, Any]:
    af = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}[key.family]
    if key.fwmark:
        return {"IPVS_SVC_ATTR_AF": af, "IPVS_SVC_ATTR_FWMARK": key.fwmark}
    return {
        "IPVS_SVC_ATTR_AF": af,
        "IPVS_SVC_ATTR_PROTOCOL": {"tcp": 6, "udp": 17, "sctp": 132}[key.protocol],
        "IPVS_SVC_ATTR_ADDR": key.address,
        "IPVS_SVC_ATTR_PORT": key.port,
    }


def expected_netmask(service: VirtualService) -> str:
    """As pyroute2 shows it: a dotted quad, of IPv6 the prefix length in the host's byte order."""
    if service.key.family == "ipv6":
        return str(IPv4Address(struct.pack("=I", service.netmask)))
    return str(IPv4Address(2**32 - 2 ** (32 - service.netmask)))


def expected_service(service: VirtualService) -> dict[str, Any]:
    bits = sum(SCHEDULER_BITS[flag] for flag in service.scheduler_flags)
    flags = (1 if service.persistence_timeout else 0) | (4 if service.one_packet else 0) | bits
    return {
        **expected_key(service.key),
        "IPVS_SVC_ATTR_SCHED_NAME": service.scheduler,
        "IPVS_SVC_ATTR_FLAGS": {"flags": flags, "mask": 1 | 4 | 8 | 16 | 32},
        "IPVS_SVC_ATTR_TIMEOUT": service.persistence_timeout,
        "IPVS_SVC_ATTR_NETMASK": expected_netmask(service),
        **({"IPVS_SVC_ATTR_PE_NAME": service.persistence_engine} if service.persistence_engine else {}),
    }


def expected_endpoint(address: str, port: int) -> dict[str, Any]:
    af = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    return {"IPVS_DEST_ATTR_ADDR": address, "IPVS_DEST_ATTR_PORT": port, "IPVS_DEST_ATTR_ADDR_FAMILY": af}


def expected_destination(one: Destination) -> dict[str, Any]:
    kind, port, flags = one.tunnel
    tunnel = {
        "IPVS_DEST_ATTR_TUN_TYPE": kind,
        "IPVS_DEST_ATTR_TUN_PORT": socket.htons(port),  # pyroute2 reads it in the host's byte order
        "IPVS_DEST_ATTR_TUN_FLAGS": flags,
    }
    return {
        **expected_endpoint(one.address, one.port),
        "IPVS_DEST_ATTR_FWD_METHOD": METHODS[one.forward_method],
        "IPVS_DEST_ATTR_WEIGHT": one.weight,
        "IPVS_DEST_ATTR_U_THRESH": one.upper_threshold,
        "IPVS_DEST_ATTR_L_THRESH": one.lower_threshold,
        **(tunnel if kind else {}),
    }


def without_padding(found: dict[str, Any]) -> dict[str, Any]:
    """With addresses in one spelling, and flags as plain numbers."""
    return {
        name: spelled(value) if name.endswith("_ADDR") else dict(value) if name.endswith("SVC_ATTR_FLAGS") else value
        for name, value in found.items()
    }


@given(services(), st.sampled_from([(AddService, 1), (SetService, 2)]))
def test_a_virtual_service(service: VirtualService, change: tuple[Any, int]) -> None:
    command, found = ipvs(ipvs_messages.encode_change(change[0](service)))
    assert command == change[1]
    assert {name: without_padding(inner) for name, inner in found.items()} == {
        "IPVS_CMD_ATTR_SERVICE": expected_service(service)
    }


@given(keys)
def test_the_end_of_a_virtual_service(key: ServiceKey) -> None:
    command, found = ipvs(ipvs_messages.encode_change(DeleteService(key)))
    assert command == 3
    assert without_padding(found["IPVS_CMD_ATTR_SERVICE"]) == expected_key(key)


@given(keys, destinations, st.sampled_from([(AddDestination, 5), (SetDestination, 6)]))
def test_a_destination(key: ServiceKey, destination: Destination, change: tuple[Any, int]) -> None:
    command, found = ipvs(ipvs_messages.encode_change(change[0](key, destination)))
    assert command == change[1]
    assert without_padding(found["IPVS_CMD_ATTR_SERVICE"]) == expected_key(key)
    assert without_padding(found["IPVS_CMD_ATTR_DEST"]) == expected_destination(destination)


@given(keys, addresses, ports)
def test_the_end_of_a_destination(key: ServiceKey, address: str, port: int) -> None:
    command, found = ipvs(ipvs_messages.encode_change(DeleteDestination(key, (address, port))))
    assert command == 7
    assert without_padding(found["IPVS_CMD_ATTR_DEST"]) == expected_endpoint(address, port)


def test_timeouts() -> None:
    """pyroute2 shows them as raw bytes."""
    command, found = ipvs(ipvs_messages.encode_timeouts(Timeouts(900, 0, 300)))
    assert command == 12
    raw = {name.rpartition("TIMEOUT_")[2]: bytes.fromhex(value.replace(":", "")) for name, value in found.items()}
    assert raw == {"TCP": struct.pack("=I", 900), "TCP_FIN": struct.pack("=I", 0), "UDP": struct.pack("=I", 300)}


# connection tracking

flows = families.flatmap(
    lambda family: st.tuples(
        st.just(family),
        st.sampled_from(["tcp", "udp", "sctp"]),
        *(of_family(family) for dummy in range(4)),
        *(ports for dummy in range(4)),
    )
)


def cta_tuple(family: str, protocol: int, source: tuple[str, int], destination: tuple[str, int]) -> dict[str, Any]:
    version = {"ipv4": "V4", "ipv6": "V6"}[family]
    addresses_of = [(f"CTA_IP_{version}_SRC", source[0]), (f"CTA_IP_{version}_DST", destination[0])]
    numbers = [("CTA_PROTO_NUM", protocol), ("CTA_PROTO_SRC_PORT", source[1]), ("CTA_PROTO_DST_PORT", destination[1])]
    return {"attrs": [("CTA_TUPLE_IP", {"attrs": addresses_of}), ("CTA_TUPLE_PROTO", {"attrs": numbers})]}


@given(flows, u32, st.none() | u16)
def test_an_entry_of_connection_tracking_is_read_and_deleted(flow: Any, identity: int, zone: int | None) -> None:
    family, protocol, client, front, backend, back, *numbers = flow
    number = {"tcp": 6, "udp": 17, "sctp": 132}[protocol]
    original = ((client, numbers[0]), (front, numbers[1]))
    reply = ((backend, numbers[2]), (back, numbers[3]))
    attrs: list[Any] = [
        ("CTA_TUPLE_ORIG", cta_tuple(family, number, *original)),
        ("CTA_TUPLE_REPLY", cta_tuple(family, number, *reply)),
        ("CTA_ID", identity),
        *([] if zone is None else [("CTA_ZONE", zone)]),
    ]
    af = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}[family]
    dumped = written(nfct_msg, CONNTRACK_SUBSYSTEM, nfgen_family=af, attrs=attrs)
    found = conntrack._decode(dumped, number)
    assert found is not None
    assert (found.protocol, found.family, found.live) == (protocol, family, True)
    assert (found.destination, found.reply_source) == (original[1], reply[0])
    tracking, recorder = Conntrack(), Recorder()
    tracking._netlink = cast(Any, recorder)
    assert tracking.delete(found)
    ((kind, flags, payload),) = recorder.sent
    assert (kind, flags) == (CONNTRACK_SUBSYSTEM | 2, 0)
    message = read(nfct_msg, payload, kind)
    assert message["nfgen_family"] == af
    expected = tree(read(nfct_msg, dumped, CONNTRACK_SUBSYSTEM))
    del expected["CTA_TUPLE_REPLY"]
    assert tree(message) == expected


@pytest.mark.parametrize("number", [6, 17, 132])
def test_a_dump_of_connection_tracking_asks_for_one_protocol(number: int) -> None:
    payload = written(nfgen_msg, nfgen_family=socket.AF_INET) + conntrack._only(number)
    found = tree(read(nfct_msg, payload, CONNTRACK_SUBSYSTEM | 1))
    assert found == {
        "CTA_FILTER": {"CTA_FILTER_ORIG_FLAGS": 1 << 3},
        "CTA_TUPLE_ORIG": {"CTA_TUPLE_PROTO": {"CTA_PROTO_NUM": number}},
    }
