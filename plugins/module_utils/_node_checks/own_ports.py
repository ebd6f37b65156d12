# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that take ports of the node at which something else listens, or by which the run is connected. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .._model import addresses as ip
from .._model.messages import printable
from .._model.own_ports import WILDCARD, OwnPort
from .._model.service import Node
from .._objects.node_facts import Listener

_NAMED_LISTENERS = 3
_LOOPBACK = "127.0.0.0/8"


def listener_warnings(taken: Iterable[OwnPort], listeners: Sequence[Listener], node: Node) -> list[str]:
    """One line for each port of a service that somebody else's connections no longer reach."""
    at: dict[tuple[str, int], list[Listener]] = {}
    for listener in listeners:
        at.setdefault((listener.protocol, listener.port), []).append(listener)
    found: dict[str, dict[str, None]] = {}
    for one in taken:
        for listener in at.get((one.protocol, one.port), ()):
            if _is_cut_off(listener, one, node):
                found.setdefault(str(one), {})[_named(listener)] = None
    return [
        f"{one} takes the port on which {_joined(list(names))} listens: new connections there reach the service's backends "
        "instead: choose another port or address, or let that program listen elsewhere"
        for one, names in found.items()
    ]


def connection_problems(taken: Iterable[OwnPort], server: tuple[str, int] | None, node: Node) -> Iterator[str]:
    """One line for each port that is the one by which a run is connected, unless the node's settings allow it."""
    if server is None or node.allow_management_port:
        return
    for one in taken:
        if one.takes(*server, "tcp", node):
            yield (
                f"{one} is {ip.endpoint(*server)}, by which this run is connected, so that no further one could connect: must be "
                "another port or address, or allow_management_port true in node (service_proxy_allow_management_port of the roles)"
            )


def _is_cut_off(listener: Listener, one: OwnPort, node: Node) -> bool:
    """A wildcard is on all addresses of its family, and that of IPv6 on those of IPv4 too, unless the program has it otherwise."""
    family = ip.family_of(one.address)
    if listener.address == WILDCARD[family] or listener.address == WILDCARD[ip.IPV6]:
        own = [address for address in node.addresses if ip.family_of(address) == family]
        return not one.is_node_port or not node.node_port_addresses or any(map(node.has_node_ports, own))
    if ip.family_of(listener.address) != family or listener.address == "::1":
        return False
    if one.is_node_port and ip.contains(_LOOPBACK, listener.address):
        return node.localhost_node_ports
    return one.takes(listener.address, listener.port, listener.protocol, node)


def _named(listener: Listener) -> str:
    at = ip.endpoint(listener.address, listener.port)
    return f"{printable(listener.process) or 'an unknown process'} ({at})"


def _joined(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_LISTENERS
    return ", ".join(names[:_NAMED_LISTENERS]) + (f" and {more} more" if more > 0 else "")
