# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a namespace's kernel holds, read by pyroute2, which shares no code with the collection."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import IPVS, Conntrack, IPRoute, IPSet
from pyroute2.ipvs import IPVSService

from lab.namespaces import Namespace

PORT_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
FAMILY = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}


def held_sets(namespace: Namespace) -> dict[str, tuple[str, list[str]]]:
    """Type and elements of each set by its name, elements as ``ipset save`` spells them, sorted."""

    def read() -> dict[str, tuple[str, list[str]]]:
        found: dict[str, tuple[str, list[str]]] = {}
        with IPSet() as ipset:
            for message in ipset.list():
                entries = message.get_attr("IPSET_ATTR_ADT")
                elements = [_element(entry) for entry in (entries.get_attrs("IPSET_ATTR_DATA") if entries else [])]
                name, kind = message.get_attr("IPSET_ATTR_SETNAME"), message.get_attr("IPSET_ATTR_TYPENAME")
                found[name] = (kind, sorted(found.get(name, ("", []))[1] + elements))
        return found

    return namespace.call(read)


def _element(entry: Any) -> str:
    if entry.get_attr("IPSET_ATTR_NAME"):
        return str(entry.get_attr("IPSET_ATTR_NAME"))
    parts = [_address(entry, "IPSET_ATTR_IP_FROM", "IPSET_ATTR_CIDR")]
    if entry.get_attr("IPSET_ATTR_PROTO") is not None:
        protocol = PORT_PROTOCOLS[entry.get_attr("IPSET_ATTR_PROTO")]
        parts.append(f"{protocol}:{entry.get_attr('IPSET_ATTR_PORT_FROM')}")
    parts.append(_address(entry, "IPSET_ATTR_IP2", "IPSET_ATTR_CIDR2"))
    return ",".join(filter(None, parts))


def _address(entry: Any, kind: str, cidr: str) -> str:
    held = entry.get_attr(kind)
    if held is None:
        return ""
    address = held.get_attr("IPSET_ATTR_IPADDR_IPV4") or held.get_attr("IPSET_ATTR_IPADDR_IPV6")
    length = entry.get_attr(cidr)
    return f"{address}/{length}" if length not in (None, 32 if "." in address else 128) else str(address)


def held_services(namespace: Namespace) -> dict[tuple[Any, ...], tuple[dict[str, Any], dict[str, dict[str, Any]]]]:
    """Settings and destinations (by ``address port``) of each virtual service, by protocol, address and port or by mark."""

    def read() -> dict[tuple[Any, ...], Any]:
        found = {}
        with IPVS() as ipvs:
            for message in list(ipvs.service("dump")):
                service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
                named = IPVSService(af=service.get_attr("IPVS_SVC_ATTR_AF"))
                for short in ("protocol", "addr", "port", "fwmark"):
                    value = service.get_attr(f"IPVS_SVC_ATTR_{short.upper()}")
                    if value is not None:
                        named[short] = value
                held = [one.get_attr("IPVS_CMD_ATTR_DEST") for one in list(ipvs.dest("dump", named))]
                found[_service_key(service)] = (_settings(service), dict(map(_destination, held)))
        return found

    return namespace.call(read)


def _service_key(service: Any) -> tuple[Any, ...]:
    if service.get_attr("IPVS_SVC_ATTR_FWMARK"):
        return FAMILY[service.get_attr("IPVS_SVC_ATTR_AF")], service.get_attr("IPVS_SVC_ATTR_FWMARK")
    protocol = PORT_PROTOCOLS[service.get_attr("IPVS_SVC_ATTR_PROTOCOL")]
    return protocol, service.get_attr("IPVS_SVC_ATTR_ADDR"), service.get_attr("IPVS_SVC_ATTR_PORT")


def _settings(service: Any) -> dict[str, Any]:
    """netmask: a prefix length. flags: without 0x2, which is the kernel's own."""
    netmask = IPv4Address(service.get_attr("IPVS_SVC_ATTR_NETMASK"))
    is_ipv6 = service.get_attr("IPVS_SVC_ATTR_AF") == socket.AF_INET6
    return {
        "scheduler": service.get_attr("IPVS_SVC_ATTR_SCHED_NAME"),
        "flags": service.get_attr("IPVS_SVC_ATTR_FLAGS")["flags"] & ~0x2,
        "timeout": service.get_attr("IPVS_SVC_ATTR_TIMEOUT"),
        "netmask": int.from_bytes(netmask.packed, "little") if is_ipv6 else bin(int(netmask)).count("1"),
    }


def _destination(one: Any) -> tuple[str, dict[str, Any]]:
    names = {"method": "FWD_METHOD", "weight": "WEIGHT", "upper": "U_THRESH", "lower": "L_THRESH", "tunnel": "TUN_TYPE"}
    endpoint = f"{one.get_attr('IPVS_DEST_ATTR_ADDR')} {one.get_attr('IPVS_DEST_ATTR_PORT')}"
    return endpoint, {word: one.get_attr(f"IPVS_DEST_ATTR_{name}") for word, name in names.items()}


def held_flows(namespace: Namespace, family: int) -> set[tuple[str, str, int, str]]:
    """Of each entry of connection tracking protocol, destination and its port, and who answers."""

    def read() -> set[tuple[str, str, int, str]]:
        with Conntrack(nfgen_family=family) as tracking:
            return {
                (
                    PORT_PROTOCOLS[entry.tuple_orig.proto],
                    entry.tuple_orig.daddr,
                    entry.tuple_orig.dport,
                    entry.tuple_reply.saddr,
                )
                for entry in tracking.dump_entries()
                if entry.tuple_orig.family == family
            }

    return namespace.call(read)


def device_addresses(namespace: Namespace, device: str) -> dict[str, tuple[int, int, int]]:
    """Prefix length, flags and preferred lifetime of each address of global scope on a device."""

    def read(route: IPRoute) -> dict[str, tuple[int, int, int]]:
        (index,) = route.link_lookup(ifname=device)
        return {
            address.get("local") or address.get("address"): (
                address["prefixlen"],
                address.get("flags"),
                address.get("cacheinfo")["ifa_preferred"],
            )
            for address in route.get_addr(index=index, scope=0)
        }

    return namespace.rtnetlink(read)


def link_state(namespace: Namespace, device: str) -> tuple[str, bool] | None:
    """Kind of a link, and whether it is up; None where there is none."""

    def read(route: IPRoute) -> tuple[str, bool] | None:
        for index in route.link_lookup(ifname=device):
            (link,) = route.link("get", index=index)
            return link.get(("linkinfo", "kind")), bool(link["flags"] & 1)
        return None

    return namespace.rtnetlink(read)
