# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services compiled to iptables chains, in kube-proxy's layout, or without its chains of single backends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from ..._model import addresses as ip
from ..._model.families import by_family
from ..._model.service import Backend, Node, Service
from ..._objects.iptables import ChainKey, Desired
from .. import backends as pools
from ..netfilter.names import PORT_UNREACHABLE, Layout, ServiceRules, rule
from . import balance
from .shared_chains import assemble


class Compiled(NamedTuple):
    """Services, and what each adds to the rules."""

    services: tuple[Service, ...]
    parts: dict[str, list[ServiceRules]]
    """By address family; a service is in those in which it answers."""


def compile_parts(services: Sequence[Service], node: Node) -> Compiled:
    """Return what each of these services adds."""
    parts = {
        family: [compile_service(service, node, family) for service in own]
        for family, own in by_family(services, node).items()
    }
    return Compiled(tuple(services), parts)


def whole_state(compiled: Compiled, node: Node) -> dict[str, Desired]:
    """Return the state of a node that has these services alone, by address family. No services, no rules."""
    return {family: assemble(parts, node, family) for family, parts in compiled.parts.items()}


def compile_services(services: Sequence[Service], node: Node) -> dict[str, Desired]:
    """Return the state of a node that has these services alone, by address family."""
    return whole_state(compile_parts(services, node), node)


def compile_service(service: Service, node: Node, family: str) -> ServiceRules:
    """The rules of one service in one family."""
    return _ServiceCompiler(service, node, family).compile()


_layout = lru_cache(maxsize=None)(Layout)
"""One for all services."""


class _ServiceCompiler:
    """Collects the rules of one service in one family."""

    def __init__(self, service: Service, node: Node, family: str) -> None:
        self.service, self.node, self.family = service, node, family
        self.layout = _layout(node.chain_prefix)
        self.pools = pools.choose(service, node, family)
        self.local_cidrs = [cidr for cidr in node.local_cidrs if ip.family_of(cidr) == family]
        self.mark_masq = self.layout.shared("MARK-MASQ")
        self.chains: dict[ChainKey, list[str]] = {}
        self.entries: dict[ChainKey, list[str]] = {}

    def compile(self) -> ServiceRules:
        self._vips()
        external = self._of_family(self.service.external_ips)
        balanced = self._of_family(self.service.load_balancer_ips)
        if external or balanced or self.service.node_port is not None:
            self._external(external, balanced)
        return ServiceRules(self.chains, self.entries)

    def _of_family(self, addresses: Iterable[str]) -> list[str]:
        return [address for address in addresses if ip.family_of(address) == self.family]

    def _comment(self, what: str) -> str:
        return f"{self.service.name}: {what}"

    def _to(self, address: str, what: str, target: str, source: str = "") -> str:
        """A rule for the service's port on one of its addresses."""
        return rule(
            target,
            self._comment(what),
            source=source,
            destination=ip.host_network(address),
            protocol=self.service.protocol,
            port=self.service.port,
        )

    def _entry(self, table: str, chain: str, text: str) -> None:
        self.entries.setdefault((table, self.layout.shared(chain)), []).append(text)

    def _service_chain(self, kind: str) -> tuple[str, list[str]]:
        """The chain of this kind and its rules, so far none when it is new."""
        name = self.layout.chain_name(kind, self.service.name)
        return name, self.chains.setdefault(("nat", name), [])

    def _vips(self) -> None:
        vips = self._of_family(self.service.vip)
        local = self.service.internal_traffic_policy == "local"
        if not vips:
            return
        if not (self.pools.local if local else self.pools.cluster):
            for vip in vips:
                self._refuse(vip, "no local backends" if self.pools.cluster else "no backends")
            return
        name, rules = self._pool_chain(local)
        masquerade = [self._to(vip, "masquerade", target) for vip in vips for target in self._vip_masquerade()]
        rules[:0] = masquerade
        for vip in vips:
            self._entry("nat", "SERVICES", self._to(vip, "vip", name))

    def _vip_masquerade(self) -> list[str]:
        """Where VIP traffic is sent to be marked for masquerade: nowhere, when all of it keeps its source."""
        if self.node.masquerade_all:
            return [self.mark_masq]
        return [self.layout.shared("MARK-NONLOCAL")] if self.local_cidrs else []

    def _external(self, external: Sequence[str], balanced: Sequence[str]) -> None:
        if self.pools.cluster:
            for address in external:
                self._entry("nat", "SERVICES", self._to(address, "external ip", self._external_chain()))
            if self.service.node_port is not None:
                self._node_port("nat", "node port", self._external_chain())
        refusal = self._external_refusal()
        for address in balanced:
            self._load_balancer(address, refusal)
        if refusal:
            for address in external:
                self._refuse(address, refusal)
            self._node_port("filter", refusal, self._refusal_target(refusal))

    def _external_refusal(self) -> str:
        """Why external traffic that no nat rule took has no backend; empty when it has."""
        if not self.pools.cluster:
            return "no backends"
        if self.service.external_traffic_policy == "local" and not self.pools.local:
            return "no local backends"
        return ""

    def _external_chain(self) -> str:
        """The chain for external traffic: who is masqueraded, and who reaches which backends."""
        name, rules = self._service_chain("EXT")
        if rules:
            return name
        cluster, dummy = self._pool_chain(local=False)
        if self.service.external_traffic_policy == "cluster":
            rules.append(rule(self.mark_masq, self._comment("masquerade external traffic")))
            rules.append(rule(cluster, self._comment("all backends")))
            return name
        node_itself = "-m addrtype --src-type LOCAL"
        rules.append(rule(self.mark_masq, self._comment("masquerade the node itself"), match=node_itself))
        rules.append(rule(cluster, self._comment("the node itself to all backends"), match=node_itself))
        for cidr in self.local_cidrs:
            rules.append(rule(cluster, self._comment("local sources to all backends"), source=cidr))
        if self.pools.local:
            rules.append(rule(self._pool_chain(local=True)[0], self._comment("local backends")))
        return name

    def _load_balancer(self, address: str, refusal: str) -> None:
        """A load-balancer address: with source ranges, whatever they do not let into the nat chain is dropped."""
        if not self.service.source_ranges:
            if self.pools.cluster:
                self._entry("nat", "SERVICES", self._to(address, "load balancer", self._external_chain()))
            if refusal:
                self._refuse(address, refusal)
            return
        admitted = self._admitted(address)
        if self.pools.cluster and admitted:
            name, rules = self._service_chain("FW")
            for source in admitted:
                text = rule(self._external_chain(), self._comment("source range"), source=source)
                if text not in rules:
                    rules.append(text)
            self._entry("nat", "SERVICES", self._to(address, "load balancer", name))
        if refusal == "no backends":
            for source in admitted:
                self._refuse(address, refusal, source)
        self._entry("filter", "FIREWALL", self._to(address, "outside source ranges", "DROP"))

    def _admitted(self, address: str) -> list[str]:
        """The source ranges of this family; the node itself may come from the load-balancer address, when covered."""
        ranges = self._of_family(self.service.source_ranges)
        covered = any(ip.contains(cidr, own) for cidr in ranges for own in self.node.addresses)
        return ranges + [ip.host_network(address)] if covered else ranges

    def _node_port(self, table: str, what: str, target: str) -> None:
        if self.service.node_port is not None:
            protocol, port = self.service.protocol, self.service.node_port
            self._entry(table, "NODEPORTS", rule(target, self._comment(what), protocol=protocol, port=port))

    def _refuse(self, address: str, why: str, source: str = "") -> None:
        self._entry("filter", "FIREWALL", self._to(address, why, self._refusal_target(why), source))

    def _refusal_target(self, why: str) -> str:
        """Without any backend a connection is rejected, else dropped.

        A TCP connection is reset: an ICMP error would be rate-limited (icmp(7), icmp_ratelimit).
        """
        if why != "no backends":
            return "DROP"
        answer = "tcp-reset" if self.service.protocol == "tcp" else PORT_UNREACHABLE[self.family]
        return f"REJECT --reject-with {answer}"

    def _pool_chain(self, local: bool) -> tuple[str, list[str]]:
        """The chain that picks a backend of the cluster-wide or of the local pool."""
        name, rules = self._service_chain("SVL" if local else "SVC")
        if not rules:
            pool = self.pools.local if local else self.pools.cluster
            scope = "local" if local else "all"
            if self._has_affinity:
                rules += self._affinity_rules(pool, scope, "")
            rules += self._choose(pool, scope, "")
        return name, rules

    def _choose(self, pool: Sequence[Backend], scope: str, path: str) -> list[str]:
        """The rules that lead on to one of a pool, by way of groups when it is large."""
        parts = balance.divide(pool, len(path))
        shares = balance.matches(tuple(sum(backend.weight for backend in part) for dummy, part in parts))
        return [self._one_of(part, scope, path + digit, share) for (digit, part), share in zip(parts, shares)]

    def _one_of(self, part: Sequence[Backend], scope: str, path: str, share: str) -> str:
        """The rule that leads this share on to one of these."""
        if len(part) > 1:
            name = self.layout.chain_name("GRP", self.service.name, scope, path)
            self.chains[("nat", name)] = self._choose(part, scope, path)
            return rule(name, self._comment(f"to {len(part)} backends"), match=share)
        at = ip.endpoint(part[0].address, part[0].port)
        if self.node.backend_chains or self._has_affinity:
            return rule(self._backend_chain(part[0]), self._comment("to " + at), match=share)
        return self._translate(at, "to " + at, share)

    def _translate(self, at: str, what: str, share: str = "") -> str:
        return rule("DNAT --to-destination " + at, self._comment(what), protocol=self.service.protocol, match=share)

    @property
    def _has_affinity(self) -> bool:
        return self.service.session_affinity == "client_ip"

    def _affinity_rules(self, pool: Sequence[Backend], scope: str, path: str) -> list[str]:
        """Clients that a backend remembers go to it, before chance is asked; by way of the groups of a large pool.

        A group may remember a client of which its backends know no more: then the next rule is asked.
        """
        return [self._affinity_rule(part, scope, path + digit) for digit, part in balance.divide(pool, len(path))]

    def _affinity_rule(self, part: Sequence[Backend], scope: str, path: str) -> str:
        if len(part) > 1:
            name = self.layout.chain_name("GRP", self.service.name, "again to " + scope, path)
            remembered = _remembered_in(self._clients_of_group(path))
            self.chains[("nat", name)] = self._affinity_rules(part, scope, path)
            return rule(name, self._comment(f"again to {len(part)} backends"), match=remembered)
        at = ip.endpoint(part[0].address, part[0].port)
        return rule(
            self._backend_chain(part[0]), self._comment("again to " + at), match=_remembered_in(self._clients(at))
        )

    def _clients(self, at: str) -> str:
        """The ipset of the clients that the backend at this endpoint remembers."""
        return self.layout.chain_name("AFF", self.service.name, at)

    def _clients_of_group(self, path: str) -> str:
        """The ipset of the clients that the backends of a group remember; which these are goes by the hashes of endpoints alone."""
        return self.layout.chain_name("AFF", self.service.name, "group", self.family, path)

    @cached_property
    def _groups(self) -> dict[Backend, list[str]]:
        """By backend the paths of the groups in which it is, in any pool."""
        found: dict[Backend, set[str]] = {}
        for pool in self.pools:
            for backend, path in balance.groups_of(pool):
                found.setdefault(backend, set()).add(path)
        return {backend: sorted(paths) for backend, paths in found.items()}

    def _backend_chain(self, backend: Backend) -> str:
        at = ip.endpoint(backend.address, backend.port)
        name = self.layout.chain_name("SEP", self.service.name, at)
        if ("nat", name) in self.chains:
            return name
        rules = [rule(self.mark_masq, self._comment("hairpin"), source=ip.host_network(backend.address))]
        if self._has_affinity:
            timeout = self.service.session_affinity_timeout
            for clients in [self._clients(at), *map(self._clients_of_group, self._groups.get(backend, ()))]:
                remember = f"SET --add-set {clients} src --exist --timeout {timeout}"
                rules.append(rule(remember, self._comment("remember the client")))
        rules.append(self._translate(at, at))
        self.chains[("nat", name)] = rules
        return name


def _remembered_in(clients: str) -> str:
    return f"-m set --match-set {clients} src"
