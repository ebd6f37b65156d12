# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a node reaches the backends of other nodes: compiled from the inventory, compared with the kernel, and applied as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from .._kernel.overlay import Overlay
from .._kernel.overlay_messages import LinkInfo
from .._kernel.route import RouteError, Routes
from .._model import addresses as ip
from .._model.overlay import VXLAN, OverlayNode, OverlayPlan, parse_overlay
from .._objects.overlay import (
    DEVICE,
    METRICS,
    PROTOCOL,
    Forwarding,
    InnerAddress,
    Item,
    Neighbour,
    OtherTunnel,
    ReversePath,
    Route,
    Tunnel,
    Way,
    route_text,
)
from .._plan.overlay import Change as OverlayChange
from .._plan.overlay import diff, plan
from .._plan.transaction import Step, run
from .change import Change, NodeError, printable
from .settings import Settings

_HEADERS = {ip.IPV4: 50, ip.IPV6: 70}
"""What VXLAN puts in front of an Ethernet frame's payload: IP, UDP, VXLAN and Ethernet headers (RFC 7348)."""
_USUAL_MTU = 1500
_LOOSE = 2


class Planned(NamedTuple):
    """What becomes of the overlay of a node."""

    wanted: Sequence[Item]
    changes: Sequence[OverlayChange]
    warnings: Sequence[str]
    overlay: OverlayPlan | None
    """None: none is wanted."""


class Surroundings(NamedTuple):
    """What a node has around its overlay."""

    ways: Mapping[str, Way | None]
    """To the addresses of all nodes."""
    mtus: Mapping[str, int]
    """By link."""
    routes: Sequence[Route]
    """Of others, in table main."""
    tunnels: Sequence[OtherTunnel]
    addresses: Sequence[tuple[LinkInfo, str]]
    """Of the node, but those of our device."""
    device: LinkInfo | None
    """The link of our device's name."""


def plan_overlay(settings: Settings) -> Planned:
    """Compare what is wanted with what the kernel holds. Raises InvalidOverlay, NodeError and OverlayError."""
    try:
        return _plan(settings)
    except RouteError as error:
        raise NodeError(f"the routes of {settings.name} cannot be read: {error}") from error


def _plan(settings: Settings) -> Planned:
    wanted: list[Item] = []
    warnings: list[str] = []
    overlay = parse_overlay(settings.values) if settings.has_overlay else None
    with Overlay() as kernel:
        held = kernel.held()
        if overlay:
            around = _observe(overlay, kernel)
            wanted = compile_overlay(overlay, around)
            for problem in _problems(overlay, wanted, around):
                raise NodeError(problem)
            warnings = list(_warnings(overlay, wanted, around))
    return Planned(wanted, plan(wanted, held), warnings, overlay)


def _observe(overlay: OverlayPlan, kernel: Overlay) -> Surroundings:
    with Routes() as routes:
        ways = {address: routes.way(address) for node in overlay.nodes for address in node.addresses.values()}
    return Surroundings(
        ways,
        {link.name: link.mtu for link in kernel.links()},
        [one for one in kernel.routes() if one.protocol != PROTOCOL],
        kernel.other_tunnels(),
        kernel.addresses(),
        kernel.device(),
    )


def compile_overlay(overlay: OverlayPlan, around: Surroundings) -> list[Item]:
    """Return what the kernel is to hold. Pure."""
    if overlay.settings.mode == VXLAN:
        return list(_vxlan(overlay, around))
    return [
        Route(network, node.addresses[family], way.device, METRICS[family])
        for node in overlay.others
        for network in node.networks
        for family in [ip.family_of(network)]
        for way in [around.ways[node.addresses[family]]]
        if way
    ]


def _vxlan(overlay: OverlayPlan, around: Surroundings) -> Iterator[Item]:
    settings, own, carrier = overlay.settings, overlay.own, overlay.carrier
    mtu = settings.mtu or _carried_mtu(overlay, around)
    yield Tunnel(settings.id, settings.port, own.addresses[carrier], overlay.mac(own), mtu)
    yield ReversePath(_LOOSE)
    for family in overlay.inner_families:
        yield InnerAddress(ip.host_network(overlay.inner_address(own, family)))
    for node in overlay.others:
        yield Forwarding(overlay.mac(node), node.addresses[carrier])
        for family in overlay.inner_families:
            inner = overlay.inner_address(node, family)
            yield Neighbour(inner, overlay.mac(node))
            yield Route(ip.host_network(inner), "", DEVICE, METRICS[family])
        for network in node.networks:
            family = ip.family_of(network)
            yield Route(network, overlay.inner_address(node, family), DEVICE, METRICS[family], onlink=True)


def _carried_mtu(overlay: OverlayPlan, around: Surroundings) -> int:
    """The MTU that leaves room for the headers on the way to every node."""
    ways = [around.ways[node.addresses[overlay.carrier]] for node in overlay.others]
    found = [around.mtus[way.device] for way in ways if way and not way.is_local]
    own = [link.mtu for link, address in around.addresses if address == overlay.own.addresses[overlay.carrier]]
    return min([*(found or own), *([] if found or own else [_USUAL_MTU])]) - _HEADERS[overlay.carrier]


def _problems(overlay: OverlayPlan, wanted: Sequence[Item], around: Surroundings) -> Iterator[str]:
    own, mode = overlay.own, overlay.settings.mode
    here = {address for _link, address in around.addresses}
    for address in own.addresses.values():
        if address not in here:
            yield f"service_proxy_overlay_address of {own.name} is {address}: must be an address that this host has"
    yield from _vxlan_problems(overlay, around) if mode == VXLAN else _unreached(overlay, around)
    theirs: dict[str, Route] = {}
    for route in around.routes:
        theirs.setdefault(route.destination, route)
    for item in wanted:
        if isinstance(item, Route) and item.destination in theirs:
            yield (
                f"service_proxy_overlay is {mode}, but {own.name} has a route of somebody else to {item.destination}, of "
                f'service_proxy_backend_cidrs of another node: "{route_text(theirs[item.destination])}": remove it, or the network'
            )


def _vxlan_problems(overlay: OverlayPlan, around: Surroundings) -> Iterator[str]:
    own, settings = overlay.own, overlay.settings
    if around.device and not around.device.tunnel:
        kind = around.device.kind or "physical"
        yield f"service_proxy_overlay is vxlan, but {own.name} has a device {DEVICE} of kind {kind} already, which is not ours: remove it"
    for one in around.tunnels:
        if (one.id, one.port) == (settings.id, settings.port):
            yield (
                f"service_proxy_vxlan_id is {one.id} and service_proxy_vxlan_port {one.port}, as device {printable(one.name)} of "
                f"{own.name} has them already: must be others"
            )


def _unreached(overlay: OverlayPlan, around: Surroundings) -> Iterator[str]:
    """Nodes to whose networks there can be no route."""
    text = "service_proxy_overlay is routes, but %s of %s %s: must be an address in a network that both have (or vxlan)"
    for node in overlay.others:
        for family in sorted({ip.family_of(network) for network in node.networks}):
            address = node.addresses[family]
            way = around.ways[address]
            if way is None:
                yield text % (address, node.name, f"has no route from {overlay.own.name}")
            elif way.is_local:
                yield text % (address, node.name, f"is an address of {overlay.own.name} itself")
            elif not way.is_direct:
                yield text % (
                    address,
                    node.name,
                    f"is behind a gateway of {overlay.own.name} on {printable(way.device)}",
                )


def _warnings(overlay: OverlayPlan, wanted: Sequence[Item], around: Surroundings) -> Iterator[str]:
    if overlay.settings.mode != VXLAN:
        return
    mtu = min(one.mtu for one in wanted if isinstance(one, Tunnel))
    for node in overlay.others:
        if around.ways[node.addresses[overlay.carrier]] is None:
            yield f"{node.name}, by address {node.addresses[overlay.carrier]}, has no route from {overlay.own.name}: its backends are not reached"
    wide = {link for link, address in around.addresses if link.mtu > mtu and _is_of(overlay.own, address)}
    for link in sorted(wide):
        yield (
            f"{printable(link.name)} with backends of {overlay.own.name} has MTU {link.mtu}, {DEVICE} {mtu}: a backend that does not "
            f"heed ICMP (fragmentation needed, packet too big) hangs on large packets: set the MTU of backends to {mtu}"
        )


def _is_of(node: OverlayNode, address: str) -> bool:
    return any(ip.contains(network, address) for network in node.networks)


def stray_backends(planned: Planned, backends: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a warning for each backend of another node that no way leads to. backends: addresses by the name of their node."""
    strays = [
        (node.name, address)
        for node in (planned.overlay.others if planned.overlay else ())
        for address in backends.get(node.name, ())
        if ip.is_address(address) and not _is_of(node, address) and address not in node.addresses.values()
    ]
    text = "backend %s of %s is in none of service_proxy_backend_cidrs of %s, so that the overlay does not lead there"
    with Routes() as routes:
        return [text % (address, name, name) for name, address in strays if _is_elsewhere(routes.way(address))]


def _is_elsewhere(way: Way | None) -> bool:
    """Whether an address is where the default route leads, or nowhere."""
    return way is None or way.is_default


def change_of(planned: Planned) -> Change:
    """Return the change, which is undone where a part of it fails. Raises OverlayError."""

    def apply() -> None:
        with Overlay() as kernel:
            run([Step(partial(kernel.change, *one), partial(kernel.change, *one.inverse)) for one in planned.changes])

    told = diff(planned.changes)
    return Change("", told["before"], told["after"], apply)
