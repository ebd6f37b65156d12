# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run warns of: the surroundings of a node's services observed, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, TypeVar

from .._kernel import sysctl
from .._kernel.iptables import NFT_FAMILIES, NoXtablesError, Xtables, XtablesError
from .._kernel.iptables_variant import is_legacy, legacy_holds_rules
from .._kernel.link import LinkError, links
from .._kernel.nft import Nft, NftError, NoNftError
from .._kernel.process import Runner
from .._kernel.route import RouteError, Routes
from .._model.addresses import IPV4, IPV6
from .._model.service import Node, Service
from .._objects.node_facts import ChainOfOthers, Link, Surroundings
from .checks import families_in_use, is_of_iptables, node_warnings, service_warnings

Read = TypeVar("Read")

_STRICT = 1
_HOOKS = ("forward", "input", "output")
_BRIDGE_NETFILTER = {IPV4: "net/bridge/bridge-nf-call-iptables", IPV6: "net/bridge/bridge-nf-call-ip6tables"}


def warnings(
    services: Sequence[Service],
    dataplane: str,
    node: Node,
    tables: Mapping[str, Xtables],
    runner: Runner,
    chains: Sequence[ChainOfOthers],
) -> list[str]:
    """For these services on this node; none without services. Never fails: of what could not be read it is said that it was not."""
    if not services:
        return []
    around = observe(services, dataplane, node, tables, runner)._replace(chains=chains)
    return service_warnings(services) + node_warnings(services, node, around)


def chains_of_others() -> list[ChainOfOthers]:
    """Return those through which traffic of services may come. Raises NftError where they cannot be read."""
    try:
        with Nft() as nft:
            foreign = [chain for chain in nft.base_chains() if chain.hook in _HOOKS and not is_of_iptables(chain)]
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
        except (LinkError, NftError, RouteError, sysctl.SysctlError, XtablesError) as error:
            self.unread.append(str(error))
            return instead


def observe(
    services: Sequence[Service], dataplane: str, node: Node, tables: Mapping[str, Xtables], runner: Runner
) -> Surroundings:
    """As much of the surroundings as these services depend on, but chains. With ipvs their addresses are the node's own."""
    used, reader = families_in_use(services, node), _Reader()
    found = reader.read(links, runner, instead=list[Link]())
    strict = reader.read(_strict, found, instead=frozenset[str]())
    nowhere = (frozenset[str](), frozenset[str]())
    uplinks, outside = reader.read(_ways_outside, instead=nowhere) if strict else nowhere
    unreachable = [] if dataplane == "ipvs" else reader.read(_unreachable, services, instead=list[str]())
    others = {family: reader.read(_other_variant, tables[family], instead="") for family in sorted(used)}
    return Surroundings(
        forwarding=reader.read(_forwarding, instead=dict[str, bool]()),
        conntrack=reader.read(_conntrack, instead=None),
        route_localnet=reader.read(_is_any, "ipv4", "route_localnet", instead=None),
        strict=strict,
        uplinks=uplinks,
        outside=outside,
        links=found,
        bridge_netfilter=reader.read(_bridge_netfilter, instead=dict[str, bool]()),
        unreachable=unreachable,
        other_back_end={family: other for family, other in others.items() if other},
        unread=tuple(dict.fromkeys(reader.unread)),
    )


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


def _unreachable(services: Sequence[Service]) -> list[str]:
    addresses = dict.fromkeys(address for service in services for _key, address in service.addresses())
    with Routes() as routes:
        return routes.unreachable(addresses)


def _nft_holds_rules(family: str) -> bool:
    """Whether iptables-nft's tables of a family have a rule, or a policy of drop. Raises NftError."""
    with Nft() as nft:
        own = [one for one in nft.base_chains() if one.family == NFT_FAMILIES[family] and is_of_iptables(one)]
    return any(chain.used or chain.policy == "drop" for chain in own)


def _other_variant(tables: Xtables) -> str:
    """The variant of iptables that is not this host's and has rules; empty if it has none."""
    try:
        if is_legacy(tables):
            return "nft" if _nft_holds_rules(tables.family) else ""
        return "legacy" if legacy_holds_rules(tables) else ""
    except (NoNftError, NoXtablesError):
        return ""
