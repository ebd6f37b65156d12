# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run warns of: what a node has beside its services is observed, and judged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Callable, TypeVar

from .._kernel import sysctl
from .._kernel.link import LinkError, links
from .._kernel.listeners import ListenerError, listeners, process_names, ssh_server
from .._kernel.nft import Nft, NftError, NoNftError
from .._kernel.process import Runner
from .._kernel.route import RouteError, Routes
from .._model.addresses import IPV4, IPV6, sort_key
from .._model.own_ports import OwnPort
from .._model.service import InvalidServices, Node
from .._model.service_facts import ServiceFacts
from .._objects.node_facts import ChainOfOthers, Link, Listener, NodeFacts
from .checks import HOOKS, node_warnings
from .own_ports import connection_problems

Read = TypeVar("Read")

_STRICT = 1
_BRIDGE_NETFILTER = {IPV4: "net/bridge/bridge-nf-call-iptables", IPV6: "net/bridge/bridge-nf-call-ip6tables"}


def warnings(
    services: ServiceFacts,
    bound: Collection[str],
    node: Node,
    runner: Runner,
    chains: Sequence[ChainOfOthers],
    at_input: bool = False,
) -> list[str]:
    """Return what is in the way of services. bound: addresses of theirs that the node itself has; at_input: as `Presence.takes_input`.

    Never fails: of what could not be read it is said that it was not.
    """
    observed = observe(services.addresses - set(bound), runner, services.own_ports)
    observed = observed._replace(chains=chains, at_input=at_input)
    return [*services.warnings, *node_warnings(services, node, observed)]


def refuse_own_connection(taken: Iterable[OwnPort], node: Node) -> None:
    """Raise InvalidServices where a service would take the port by which the run is connected."""
    problems = list(connection_problems(taken, ssh_server(), node))
    if problems:
        raise InvalidServices(problems)


def chains_of_others() -> list[ChainOfOthers]:
    """Return those through which traffic of services may come. Raises NftError where they cannot be read."""
    try:
        with Nft() as nft:
            foreign = [chain for chain in nft.base_chains() if chain.hook in HOOKS and not chain.is_of_iptables]
            return [(chain, nft.rules(chain)) for chain in foreign]
    except NoNftError:
        return []


class _Reader:
    """Reads what a node has, and notes what it could not read."""

    def __init__(self) -> None:
        self.unread: list[str] = []

    def read(self, function: Callable[..., Read], *arguments: Any, instead: Read) -> Read:
        """Return what a function returns; where it raises what a facility says, note that and return something instead."""
        try:
            return function(*arguments)
        except (LinkError, ListenerError, NftError, RouteError, sysctl.SysctlError) as error:
            self.unread.append(str(error))
            return instead


def observe(addresses: Collection[str], runner: Runner, own_ports: Sequence[str] = ()) -> NodeFacts:
    """Return what the node has beside services at these addresses and ports of the node, but chains."""
    reader = _Reader()
    found = reader.read(links, runner, instead=list[Link]())
    strict = reader.read(_strict, found, instead=frozenset[str]())
    nowhere = (frozenset[str](), frozenset[str]())
    uplinks, outside = reader.read(_ways_outside, instead=nowhere) if strict else nowhere
    return NodeFacts(
        forwarding=reader.read(_forwarding, instead=dict[str, bool]()),
        conntrack=reader.read(_conntrack, instead=None),
        route_localnet=reader.read(_is_any, "ipv4", "route_localnet", instead=None),
        strict=strict,
        uplinks=uplinks,
        outside=outside,
        links=found,
        bridge_netfilter=reader.read(_bridge_netfilter, instead=dict[str, bool]()),
        unreachable=reader.read(_unreachable, addresses, instead=list[str]()),
        listeners=reader.read(_listeners, own_ports, instead=list[Listener]()),
        unread=tuple(dict.fromkeys(reader.unread)),
    )


def _listeners(own_ports: Sequence[str]) -> list[Listener]:
    """Those at ports that services take, with their processes; looked for only where there are such ports."""
    taken = {(one.protocol, one.port) for one in map(OwnPort.from_text, own_ports)}
    protocols = sorted({protocol for protocol, dummy in taken} & {"tcp", "udp"})
    found = [one for one in listeners(protocols) if (one.protocol, one.port) in taken]
    names = process_names({one.inode for one in found})
    return [one._replace(process=names.get(one.inode, "")) for one in found]


def _is_any(family: str, setting: str) -> bool | None:
    """Whether a setting is on for all interfaces or for one of them."""
    values = sysctl.per_interface(family, setting)
    return any(value for name, value in values.items() if name != "lo") if values else None


def _forwarding() -> dict[str, bool]:
    """IPv4 goes by each interface's own setting, IPv6 by that of all."""
    ipv6 = sysctl.read("net/ipv6/conf/all/forwarding")
    found = {IPV4: _is_any("ipv4", "forwarding"), IPV6: None if ipv6 is None else bool(ipv6)}
    return {family: value for family, value in found.items() if value is not None}


def _conntrack() -> tuple[int, int] | None:
    entries, most = (sysctl.read("net/netfilter/nf_conntrack_" + name) for name in ("count", "max"))
    return None if entries is None or most is None else (entries, most)


def _bridge_netfilter() -> dict[str, bool]:
    """Where the kernel's other sysctls can be read and these cannot, br_netfilter is not there, and nothing is handed over."""
    if sysctl.read("net/ipv4/ip_forward") is None:
        return {}
    return {family: bool(sysctl.read(name)) for family, name in _BRIDGE_NETFILTER.items()}


def _strict(found: Sequence[Link]) -> frozenset[str]:
    """The greater of an interface's own value and that of all counts (ip-sysctl). A VRF looks answers up in its own table."""
    values = sysctl.per_interface("ipv4", "rp_filter")
    shared = values.pop("all", 0)
    vrfs = {link.name for link in found if link.kind == "vrf"}
    apart = {link.name for link in found if link.master in vrfs} | {"lo"}
    return frozenset(name for name, own in values.items() if max(own, shared) == _STRICT and name not in apart)


def _ways_outside() -> tuple[frozenset[str], frozenset[str]]:
    """The interfaces with a default route, and those by which the world outside is reached."""
    with Routes() as routes:
        return routes.uplinks(), routes.outside()


def _unreachable(addresses: Collection[str]) -> list[str]:
    with Routes() as routes:
        return sorted(routes.unreachable(addresses), key=sort_key)
