# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers about a node that need no node: its rules as text, and what a connection would meet. Pure.

Input is what users write. Wrong input raises InvalidServices, with the lines that `vip_service` would say.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from .._model import addresses as ip
from .._model.fields import Field, Problem, choice, integer, one_of_type, parse_fields, quoted
from .._model.service import PROTOCOLS, InvalidServices, Node, Service, parse_node, parse_services
from . import registry
from .interface import Dataplane
from .packet import LOOPBACK, Packet, Trace

_LOCALHOST = {ip.IPV4: "127.0.0.1", ip.IPV6: "::1"}
_NAMELESS = "node"
_CHANCE_DIGITS = 6
"""Beyond these a chance is below what the kernel's 31 bits and any test can tell."""


class Connection(NamedTuple):
    """Who connects to what: source is an address, ``node`` or ``localhost``."""

    source: str
    destination: str
    port: int
    protocol: str


def _address(value: Any) -> str:
    try:
        return ip.canonical_address(one_of_type(str)(value))
    except ValueError:
        raise Problem("an IPv4 or IPv6 address") from None


def _source(value: Any) -> str:
    try:
        return str(value) if value in ("node", "localhost") else _address(value)
    except Problem:
        raise Problem("an IPv4 or IPv6 address, node or localhost") from None


def _dataplane_field() -> Field:
    return Field(choice(*registry.NAMES), registry.DEFAULT)


_NODE = Field(one_of_type(dict), {})
_TRACE_FIELDS: dict[str, Field] = {
    "from": Field(_source),
    "to": Field(_address),
    "port": Field(integer(1, 65535)),
    "protocol": Field(choice(*PROTOCOLS), "tcp"),
    "node": _NODE,
    "dataplane": _dataplane_field(),
}
_VALIDATE_FIELDS: dict[str, Field] = {
    "node": _NODE,
    "dataplane": _dataplane_field(),
}
_RENDER_FIELDS: dict[str, Field] = {
    "node": _NODE,
    "dataplane": _dataplane_field(),
    "ip_version": Field(choice(ip.IPV4, ip.IPV6, "both"), "both"),
}


def find_errors(services: Any, options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with services and node settings, one line an error. options: dataplane, node."""
    given = _parse_options("validate", options, _VALIDATE_FIELDS)
    try:
        _parsed(services, _dataplane(given), parse_node({"name": _NAMELESS, **given["node"]}))
    except InvalidServices as error:
        return error.problems
    return []


def render_services(services: Any, options: Mapping[str, Any]) -> str:
    """Return what `vip_service` would add to a node that has no service yet. options: dataplane, ip_version, node.

    It is as the diff shows it, without settings of the kernel; iptables of one address family as ``iptables-restore --noflush``
    takes it.
    """
    given = _parse_options("render", options, _RENDER_FIELDS)
    node, dataplane, parsed = _read("render", given, services)
    families = ip.FAMILIES if given["ip_version"] == "both" else (given["ip_version"],)
    return dataplane.review(dataplane.compile(parsed, node), node, families)


def trace_services(services: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a connection meets on a node, as the filter `trace` does. options: dataplane, from, node, port, protocol, to."""
    given = _parse_options("trace", options, _TRACE_FIELDS)
    node, dataplane, parsed = _read("trace", given, services)
    connection = Connection(given["from"], given["to"], given["port"], given["protocol"])
    own = (*node.addresses, *sorted(dataplane.bound_addresses(parsed, node)))
    return _result(dataplane.trace(dataplane.compile(parsed, node), node, _packet(connection, node, own)))


def _dataplane(given: Mapping[str, Any]) -> Dataplane:
    return registry.load(given["dataplane"])


def _read(owner: str, given: Mapping[str, Any], services: Any) -> tuple[Node, Dataplane, list[Service]]:
    """Return what the options and services say. A node needs a name only where backends name the nodes that they run on."""
    node, dataplane = parse_node({"name": _NAMELESS, **given["node"]}), _dataplane(given)
    parsed = _parsed(services, dataplane, node)
    if "name" not in given["node"] and any(backend.node for service in parsed for backend in service.backends):
        raise InvalidServices([f"{owner}: node has no name: must be given, since backends say on which node they run"])
    return node, dataplane, parsed


def _parse_options(owner: str, options: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    problems: list[str] = []
    given = parse_fields(owner, options, fields, problems)
    if problems:
        raise InvalidServices(problems)
    return given


def _parsed(services: Any, dataplane: Dataplane, node: Node) -> list[Service]:
    if not isinstance(services, (list, tuple)):
        raise InvalidServices([f"services is {quoted(services)}: must be a list of dicts"])
    return parse_services(services, node, dataplane.problems)


def _packet(connection: Connection, node: Node, own: tuple[str, ...]) -> Packet:
    source = _source_address(connection, node, own)
    if ip.family_of(source) != ip.family_of(connection.destination):
        problem = "trace: from is %s and to is %s: must be of one family"
        raise InvalidServices([problem % (source, connection.destination)])
    return Packet(source, connection.destination, connection.protocol, connection.port, own)


def _source_address(connection: Connection, node: Node, local: tuple[str, ...]) -> str:
    """The node itself speaks to an address of its own from that address, and else from its first (ip(8), ``src``)."""
    family = ip.family_of(connection.destination)
    to_loopback = ip.contains(LOOPBACK[family], connection.destination)
    if connection.source == "localhost" or (connection.source == "node" and to_loopback):
        return _LOCALHOST[family]
    if connection.source != "node":
        return connection.source
    if connection.destination in local:
        return connection.destination
    own = [address for address in node.addresses if ip.family_of(address) == family]
    if not own:
        raise InvalidServices([f"node: addresses has no {family} address: from node needs one"])
    return own[0]


def _result(found: Trace) -> dict[str, Any]:
    """A trace in the types that templates compare."""
    ends: dict[_End, Fraction] = {}
    for packet, chance in found.outcomes.items():
        ends[_end(packet)] = ends.get(_end(packet), Fraction(0)) + chance
    rewritings = {end.snat for end in ends}
    reached = sorted((end for end in ends if end.address), key=lambda end: (ip.sort_key(end.address), end.port))
    return {
        "verdict": " or ".join(sorted({end.verdict for end in ends})),
        "snat": rewritings.pop() if len(rewritings) == 1 else "mixed",
        "affinity": found.affinity,
        "backends": [
            {"address": end.address, "port": end.port, "chance": _number(ends[end]), "snat": end.snat}
            for end in reached
        ],
        "rules": [
            {"table": step.table, "chain": step.chain, "rule": step.rule, "chance": _number(step.chance)}
            for step in found.steps
        ],
    }


def _number(chance: Fraction) -> float:
    return round(float(chance), _CHANCE_DIGITS)


class _End(NamedTuple):
    """What is told of a packet at the end of its way. address: empty when no backend is reached."""

    verdict: str
    snat: Any
    address: str = ""
    port: int = 0


def _end(packet: Packet) -> _End:
    if packet.verdict:
        return _End(packet.verdict, False)
    if packet.dnat or packet.forwarded:
        return _End("accept", packet.snat, packet.destination, packet.port)
    return _End("not_ours", packet.snat)
