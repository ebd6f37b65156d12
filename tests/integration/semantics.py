# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The traffic semantics, lines 5 to 17, 31 and 32, said once more and on their own: what a connection to a service must meet.

Input is what users write, in canonical spelling. Nothing of the collection is used here, so that an error there is none here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

Endpoint = tuple[str, int]

VIP, EXTERNAL, BALANCER, NODE_PORT = "vip", "external_ips", "load_balancer_ips", "node_port"
"""The ways into a service, by the key that opens them."""


class Expected(NamedTuple):
    """verdict: as the filter trace calls it. shares: of new connections, by backend. snat: by backend, as in trace."""

    verdict: str
    shares: dict[Endpoint, Fraction] = {}  # noqa: RUF012 - never changed
    snat: dict[Endpoint, Any] = {}  # noqa: RUF012


def expected_of_ipvs(
    service: Mapping[str, Any], node: Mapping[str, Any], way: str, source: str, destination: str
) -> Expected:
    """The same with the dataplane ipvs, as far as it differs (docs/semantics.md): the node has the service's addresses.

    A local policy is no different for insiders, and falls back to all backends, then masqueraded; nothing is dropped for it.
    """
    on_it = {**node, "addresses": [*node["addresses"], *([] if way == NODE_PORT else [destination])]}
    backends = [one for one in service.get("backends", ()) if _same_family(one["address"], destination)]
    local = {"backends": [one for one in backends if one.get("node") == node["name"]]}
    here = _spared(_usable(local["backends"]))
    if way == VIP:
        if service.get("internal_traffic_policy") == "local":
            service = {**service, **local}
        found = expected({**service, "internal_traffic_policy": "cluster"}, node, way, source, destination)
        return found._replace(snat=_all_masqueraded(found, node, destination)) if source == destination else found
    if service.get("external_traffic_policy") != "local" or not here:
        return expected({**service, "external_traffic_policy": "cluster"}, on_it, way, source, destination)
    return expected({**service, **local}, on_it, way, source, destination)


def _all_masqueraded(found: Expected, node: Mapping[str, Any], destination: str) -> dict[Endpoint, Any]:
    """What the node sends to a VIP is from the VIP."""
    return dict.fromkeys(found.snat, _masquerade(node, destination))


def _masquerade(node: Mapping[str, Any], destination: str) -> Any:
    given = node.get("snat_address")
    return given if given and _same_family(given, destination) else "masquerade"


def expected(service: Mapping[str, Any], node: Mapping[str, Any], way: str, source: str, destination: str) -> Expected:
    """What a connection from source to the service's address destination (or its node port there) meets."""
    wanted = _expected(service, node, way, source, destination)
    return (
        Expected("drop") if wanted.verdict != "accept" and is_kept_from_localhost(node, source, destination) else wanted
    )


def is_kept_from_localhost(node: Mapping[str, Any], source: str, destination: str) -> bool:
    """Line 30."""
    to_localhost = ip_address(destination).is_loopback and ":" not in destination
    return bool(node.get("localhost_node_ports")) and to_localhost and not _is_node(node, source)


def _expected(service: Mapping[str, Any], node: Mapping[str, Any], way: str, source: str, destination: str) -> Expected:
    if way == NODE_PORT and not (_answers_in_family(service, destination) and _has_node_ports(node, destination)):
        return Expected("not_ours")
    backends = [one for one in service.get("backends", ()) if _same_family(one["address"], destination)]
    everyone = _preferred(_spared(_usable(backends)), service, node)
    here = _spared(_usable([one for one in backends if one.get("node") == node["name"]]))
    if way == BALANCER and not _admitted(service, node, source, destination):
        return Expected("drop")
    if not everyone:
        return Expected("reject")
    pool = here if _only_local(service, node, way, source) else everyone
    if not pool:
        return Expected("drop")
    whole = sum(one.get("weight", 1) for one in pool)
    masquerade = _masquerade(node, destination)
    return Expected(
        "accept",
        {_endpoint(one, service): Fraction(one.get("weight", 1), whole) for one in pool},
        {
            _endpoint(one, service): masquerade if _masqueraded(service, node, way, source, one) else False
            for one in pool
        },
    )


def _answers_in_family(service: Mapping[str, Any], destination: str) -> bool:
    """Line 3: the right families of a node port are those of the service's addresses, else of its backends, else all."""
    own = [address for way in (VIP, EXTERNAL, BALANCER) for address in service.get(way, ())]
    own = own or [backend["address"] for backend in service.get("backends", ())]
    return not own or any(_same_family(address, destination) for address in own)


def _has_node_ports(node: Mapping[str, Any], destination: str) -> bool:
    """Line 3."""
    if ip_address(destination).is_loopback:
        return bool(node.get("localhost_node_ports")) and ":" not in destination
    chosen = node.get("node_port_addresses", ())
    return destination in node["addresses"] and (not chosen or _within(destination, chosen))


def _usable(backends: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Lines 5 and 6."""
    taking = [one for one in backends if one.get("weight", 1) > 0]
    ready = [one for one in taking if one.get("ready", True)]
    if ready:
        return ready
    return [one for one in taking if one.get("serving", one.get("ready", True)) and one.get("terminating", False)]


def _spared(backends: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Line 32."""
    by_tier: dict[int, list[Mapping[str, Any]]] = {}
    for one in backends:
        by_tier.setdefault(one.get("tier", 0), []).append(one)
    return by_tier[min(by_tier)] if by_tier else []


def _preferred(
    backends: list[Mapping[str, Any]], service: Mapping[str, Any], node: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Line 31."""
    key, own = {"prefer_zone": ("zone", node.get("zone")), "prefer_node": ("node", node["name"])}.get(
        service.get("traffic_distribution", "any"), ("", None)
    )
    return [one for one in backends if own is not None and one.get(key) == own] or backends


def _only_local(service: Mapping[str, Any], node: Mapping[str, Any], way: str, source: str) -> bool:
    """Lines 7 and 8."""
    if way == VIP:
        return bool(service.get("internal_traffic_policy") == "local")
    exempt = _is_node(node, source) or _within(source, node.get("local_cidrs", ()))
    return service.get("external_traffic_policy") == "local" and not exempt


def _admitted(service: Mapping[str, Any], node: Mapping[str, Any], source: str, destination: str) -> bool:
    """Line 17."""
    ranges = service.get("source_ranges", ())
    covers_node = any(_within(address, ranges) for address in node["addresses"] if _same_family(address, destination))
    return not ranges or _within(source, ranges) or (source == destination and covers_node)


def _masqueraded(
    service: Mapping[str, Any], node: Mapping[str, Any], way: str, source: str, backend: Mapping[str, Any]
) -> bool:
    """Lines 11 to 14."""
    if source == backend["address"]:
        return True
    if way != VIP:
        return service.get("external_traffic_policy", "cluster") == "cluster" or _is_node(node, source)
    local = [cidr for cidr in node.get("local_cidrs", ()) if _same_family(cidr, source)]
    return bool(node.get("masquerade_all")) or (bool(local) and not _within(source, local))


def _is_node(node: Mapping[str, Any], source: str) -> bool:
    return source in node["addresses"] or ip_address(source).is_loopback


def _within(address: str, networks: Iterable[str]) -> bool:
    return any(ip_address(address) in ip_network(network) for network in networks)


def _same_family(one: str, other: str) -> bool:
    return (":" in one) == (":" in other)


def _endpoint(backend: Mapping[str, Any], service: Mapping[str, Any]) -> Endpoint:
    return backend["address"], backend.get("port", service["port"])
