# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a node has, read from the rules that its kernel holds. Pure.

The reverse of the compiler, as far as rules tell: weights come back as shares, and of an address at which a service only
refuses it is not known of which kind it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Callable, NamedTuple

from ..._model import addresses as ip
from ..._model.conflicts import BackendOf, Claim
from ..._objects.conntrack import Endpoint
from ..._objects.iptables import Observed, target_of
from ..netfilter.names import Layout, owner_of
from ..report import Refusal

_KEYS = {"vip": "vip", "external ip": "external_ips", "load balancer": "load_balancer_ips"}
"""What the rules in the chain of services say, and the key of the service under which such an address is given."""
_PORT = re.compile(r"-p (\w+) .*--dport (\d+)")
_PROTOCOL = re.compile(r"-p (\w+) ")
_DESTINATION = re.compile(r"(?:^| )-d (\S+)/\d+ ")
_WHAT = re.compile(r'--comment "[^:]+: ([^"]+)"')
_PROBABILITY = re.compile(r"--probability (\S+)")
_AFFINITY = "--match-set "
_TRANSLATION = re.compile(r"--to-destination \[?(.+?)\]?:(\d+)$")
_SHARE_DIGITS = 6


class Entry(NamedTuple):
    """A rule of a service in a chain that all share. address: None for a node port. what: the rule's own words."""

    service: str
    what: str
    protocol: str
    address: str | None
    port: int
    target: str

    @property
    def verdict(self) -> str | None:
        """``reject`` or ``drop``, for an entry that refuses."""
        return self.target.lower() if self.target in ("REJECT", "DROP") else None

    @property
    def claim(self) -> Claim:
        return Claim(self.service, self.what, self.protocol, self.address, self.port)


class ObservedBackend(NamedTuple):
    """share: its part of new connections that may reach every backend; local_share: of those that reach only backends
    of this node. None where there are no such connections, or none for this backend.
    """

    address: str
    port: int
    share: float | None
    local_share: float | None


class ObservedService(NamedTuple):
    """A service in both address families."""

    name: str
    protocol: str
    port: int | None
    vip: list[str]
    external_ips: list[str]
    load_balancer_ips: list[str]
    node_port: int | None
    backends: list[ObservedBackend]
    refusals: list[Refusal]


def entries(observed: Observed, layout: Layout, wanted: Callable[[str], bool] | None = None) -> Iterator[Entry]:
    """The entries of all services in one family, in the order in which packets meet them in each chain.

    wanted: tells by a rule whether its entry is (None: each is). To read ten thousand takes longer than a small change.
    """
    for key, rules in observed.chains.items():
        if not layout.is_per_service(key):
            for entry in map(_entry, filter(wanted, rules) if wanted else rules):
                if entry:
                    yield entry


def claims_of(
    observed: Observed, layout: Layout, at: Collection[str | None] | None, of: Collection[str] | None
) -> list[Claim]:
    """Return what services have taken for themselves in one family: of these addresses, by these services; None: of all."""

    def wanted(rule: str) -> bool:
        return (at is None or destination_of(rule) in at) and (of is None or owner_of(rule) in of)

    return list({entry.claim._replace(key=""): entry.claim for entry in entries(observed, layout, wanted)}.values())


def backends_in(rules: Iterable[str], endpoints: Collection[tuple[str, str, int]]) -> Iterator[BackendOf]:
    """Yield the backends to which rules of services translate, those among these protocols, addresses and ports."""
    ends = {ip.endpoint(address, port) for dummy, address, port in endpoints}
    for rule in rules:
        if rule.rpartition(" --to-destination ")[2] in ends:
            protocol, found, owner = _PROTOCOL.search(rule), _TRANSLATION.search(rule), owner_of(rule)
            if protocol and found and owner and (protocol[1], found[1], int(found[2])) in endpoints:
                yield BackendOf(owner, protocol[1], found[1], int(found[2]))


@lru_cache(maxsize=None)
def destination_of(rule: str) -> str | None:
    """The address that an entry is for; None for every address of the node."""
    found = _DESTINATION.search(rule)
    return found.group(1) if found else None


def observed_services(families: Iterable[Observed], layout: Layout) -> list[ObservedService]:
    """By name. A service whose entries are gone, and of which only chains are left, is none."""
    families = list(families)
    by_name: dict[str, list[Entry]] = {}
    for observed in families:
        for entry in entries(observed, layout):
            by_name.setdefault(entry.service, []).append(entry)
    return [_service(name, found, families, layout) for name, found in sorted(by_name.items())]


@lru_cache(maxsize=None)  # a run asks for the same rules several times
def _entry(rule: str) -> Entry | None:
    owner, port, what = owner_of(rule), _PORT.search(rule), _WHAT.search(rule)
    if not (owner and port and what):
        return None
    return Entry(owner, what.group(1), port.group(1), destination_of(rule), int(port.group(2)), target_of(rule) or "")


def _service(name: str, found: Sequence[Entry], families: Sequence[Observed], layout: Layout) -> ObservedService:
    ports = {entry.port for entry in found if entry.address is not None}
    node_ports = {entry.port for entry in found if entry.address is None}
    of_kind = {
        key: sorted({entry.address for entry in found if entry.what == what and entry.address}, key=ip.sort_key)
        for what, key in _KEYS.items()
    }
    refusals = {Refusal(entry.address, entry.port, entry.verdict, entry.what) for entry in found if entry.verdict}
    return ObservedService(
        name=name,
        protocol=found[0].protocol,
        port=min(ports, default=None),
        node_port=min(node_ports, default=None),
        backends=[backend for observed in families for backend in _backends(name, observed, layout)],
        refusals=sorted(refusals, key=lambda refusal: (refusal.address or "", *refusal[1:])),
        **of_kind,
    )


def _backends(name: str, observed: Observed, layout: Layout) -> list[ObservedBackend]:
    every, local = (_rounded(_shares(("nat", layout.chain_name(kind, name)), observed)) for kind in ("SVC", "SVL"))
    found = sorted({*every, *local}, key=lambda endpoint: (ip.sort_key(endpoint[0]), endpoint[1]))
    return [ObservedBackend(*endpoint, every.get(endpoint), local.get(endpoint)) for endpoint in found]


def _rounded(shares: Mapping[Endpoint, float]) -> dict[Endpoint, float]:
    return {endpoint: round(share, _SHARE_DIGITS) for endpoint, share in shares.items()}


def _shares(chain: tuple[str, str], observed: Observed, whole: float = 1.0) -> dict[Endpoint, float]:
    """The chance of each backend: of what the rules before its own have left of the whole, its own takes a part."""
    shares: dict[Endpoint, float] = {}
    left = whole
    for rule in observed.chains.get(chain, ()):
        target = ("nat", target_of(rule) or "")
        found = _PROBABILITY.search(rule)
        taken = left * float(found.group(1)) if found else left
        endpoint = _TRANSLATION.search(rule)
        parts = {(endpoint[1], int(endpoint[2])): taken} if endpoint else _shares(target, observed, taken)
        if parts and _AFFINITY not in rule:
            left -= taken
            for one, share in parts.items():
                shares[one] = shares.get(one, 0.0) + share
    return shares
