# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services, backends and node settings: from what users write to values that can be trusted.

Pure. Every error is found before anything is touched, and each is one line that names the service, the key,
the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from . import addresses as ip
from .conflicts import backends_at_services, claims, conflicts, repeated_names
from .fields import (
    Field,
    Fields,
    boolean,
    choice,
    integer,
    listed,
    one_each,
    one_of_type,
    parse_fields,
    parsed,
    pattern,
    quoted,
)
from .health_check import HealthCheck, health_check
from .messages import messages
from .values import Mark, address, mark, network, service_address

PROTOCOLS = ("tcp", "udp", "sctp")
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos")
"""The schedulers of Linux 6.12 (``net/netfilter/ipvs/Kconfig``)."""
DEFAULT_SCHEDULER = "wrr"
FORWARD_METHODS = ("masquerade", "direct", "tunnel")
DEFAULT_FORWARD_METHOD = "masquerade"


class InvalidServices(ValueError):
    """What users wrote is wrong: one line for each error, in ``problems``."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(messages(problems))
        self.problems = list(problems)


class Backend(NamedTuple):
    """Where a service is served. weight: 0 to 65535; 0 takes no new connections. tier: 0 to 9; higher ones are spares."""

    address: str
    port: int
    weight: int
    node: str | None
    ready: bool
    serving: bool
    terminating: bool
    zone: str | None = None
    tier: int = 0

    @property
    def family(self) -> str:
        return ip.family_of(self.address)


class Service(NamedTuple):
    """One service, every address in canonical spelling and its backends in numeric order."""

    name: str
    vip: tuple[str, ...]
    port: int
    protocol: str
    backends: tuple[Backend, ...]
    node_port: int | None
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    session_affinity: str
    session_affinity_timeout: int
    internal_traffic_policy: str
    external_traffic_policy: str
    scheduler: str | None
    forward_method: str
    traffic_distribution: str = "any"
    health_check: HealthCheck | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address at which the service answers, but for node ports."""
        return self.vip + self.external_ips + self.load_balancer_ips


class Node(NamedTuple):
    """The settings of the node that proxies. Timeouts: seconds; None leaves the kernel's as they are.

    From drain_timeout on: of the ipvs dataplane (``Documentation/networking/ipvs-sysctl.rst``).
    """

    name: str
    addresses: tuple[str, ...]
    local_cidrs: tuple[str, ...]
    masquerade_all: bool
    node_port_addresses: tuple[str, ...]
    localhost_node_ports: bool
    snat_address: str | None
    masquerade_mark: Mark
    chain_prefix: str
    allow_management_port: bool = False
    zone: str | None = None
    drop_invalid: bool = True
    counters: bool = False
    flow_offload: tuple[str, ...] = ()
    backend_chains: bool = True
    drain_timeout: int = 0
    conn_reuse_mode: int | None = None
    expire_nodest_conn: bool = True
    tcp_timeout: int | None = None
    tcpfin_timeout: int | None = None
    udp_timeout: int | None = None

    def has_node_ports(self, address: str) -> bool:
        """Whether an address of the node is one of those that have node ports."""
        networks = self.node_port_addresses
        return not networks or any(ip.contains(network, address) for network in networks)


_NAME = pattern(
    r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?",
    "1 to 63 characters of a-z, 0-9, '-' and '.', starting and ending with a letter or digit",
)
_PORT = integer(1, 65535)
_DEVICE = pattern(
    r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}",
    "the name of a network device, 1 to 15 characters of A-Z, a-z, 0-9, '_', '.' and '-'",
)
_ONE_PORT = one_each(_PORT, "port")
_LONGEST_TIMEOUT = 2147483
"""Seconds; the kernel counts ticks, at most 1,000 a second, in 31 bits (``ip_vs_set_timeout``)."""
_TRAFFIC_POLICY = Field(choice("cluster", "local"), "cluster")

_BACKEND_FIELDS = Fields(
    {
        "address": Field(service_address),
        "port": Field(_PORT, None),
        "weight": Field(integer(0, 65535), 1),
        "node": Field(one_of_type(str), None),
        "ready": Field(boolean, True),
        "serving": Field(boolean, None),
        "terminating": Field(boolean, False),
        "zone": Field(one_of_type(str), None),
        "tier": Field(integer(0, 9), 0),
    }
)

_SERVICE_FIELDS = Fields(
    {
        "name": Field(_NAME),
        "vip": Field(listed(service_address), ()),
        "port": Field(_ONE_PORT),
        "protocol": Field(one_each(choice(*PROTOCOLS), "protocol"), "tcp"),
        "backends": Field(one_of_type(list, tuple), ()),
        "node_port": Field(_ONE_PORT, None),
        "external_ips": Field(listed(service_address), ()),
        "load_balancer_ips": Field(listed(service_address), ()),
        "source_ranges": Field(listed(network), ()),
        "session_affinity": Field(choice("none", "client_ip"), "none"),
        "session_affinity_timeout": Field(integer(1, 86400), 10800),
        "internal_traffic_policy": _TRAFFIC_POLICY,
        "external_traffic_policy": _TRAFFIC_POLICY,
        "scheduler": Field(choice(*SCHEDULERS), None),
        "forward_method": Field(choice(*FORWARD_METHODS), DEFAULT_FORWARD_METHOD),
        "traffic_distribution": Field(choice("any", "prefer_zone", "prefer_node"), "any"),
        "health_check": Field(health_check, None),
    }
)

_NODE_FIELDS: Mapping[str, Field] = {
    "name": Field(one_of_type(str)),
    "addresses": Field(listed(address), ()),
    "local_cidrs": Field(listed(network), ()),
    "masquerade_all": Field(boolean, False),
    "node_port_addresses": Field(listed(network), ()),
    "localhost_node_ports": Field(boolean, False),
    "allow_management_port": Field(boolean, False),
    "zone": Field(one_of_type(str), None),
    "snat_address": Field(service_address, None),
    "masquerade_mark": Field(mark, Mark(0x4000, 0x4000)),
    "chain_prefix": Field(pattern(r"[A-Z0-9]{1,8}", "1 to 8 characters of A-Z and 0-9"), "L4"),
    "drop_invalid": Field(boolean, True),
    "counters": Field(boolean, False),
    "flow_offload": Field(listed(_DEVICE), ()),
    "backend_chains": Field(boolean, True),
    "drain_timeout": Field(integer(0, 86400), 0),
    "conn_reuse_mode": Field(integer(0, 3), None),
    "expire_nodest_conn": Field(boolean, True),
    "tcp_timeout": Field(integer(1, _LONGEST_TIMEOUT), None),
    "tcpfin_timeout": Field(integer(1, _LONGEST_TIMEOUT), None),
    "udp_timeout": Field(integer(1, _LONGEST_TIMEOUT), None),
}


Check = Callable[[Sequence[Service], Node], "list[str]"]
"""Finds what is wrong with services beside what is wrong with each one's values: one line each."""


def nothing_else(dummy: Sequence[Service], _node: Node) -> list[str]:
    """Find nothing wrong: for who parses services without a dataplane."""
    return []


def parse_services(raw: Sequence[Any], node: Node, check: Check = nothing_else) -> list[Service]:
    """Return services in the order of their names. check: what else may be wrong with them. Raises InvalidServices with all errors."""
    problems: list[str] = []
    services = [service for service in (_parse_service(i, item, problems) for i, item in enumerate(raw)) if service]
    for service in services:
        problems += [f"service {quoted(service.name)}: {text}" for text in _check_service(service)]
    problems += check(services, node)
    taken = [claim for service in services for claim in claims(service)]
    problems += repeated_names(raw) or conflicts(taken, node.addresses)
    problems += backends_at_services(services, taken, node.addresses)
    if problems:
        raise InvalidServices(problems)
    return sorted(services)


def parse_names(raw: Sequence[Any]) -> list[str]:
    """The names alone, of services that are to go. Raises InvalidServices."""
    problems: list[str] = []
    for index, item in enumerate(raw):
        only_name = {"name": item.get("name")} if isinstance(item, Mapping) else item
        parse_fields(f"services[{index}]", only_name, {"name": _SERVICE_FIELDS["name"]}, problems)
    if problems:
        raise InvalidServices(problems)
    return [item["name"] for item in raw]


def parse_node(raw: Mapping[str, Any]) -> Node:
    """Raises InvalidServices."""
    problems: list[str] = []
    values = parse_fields("node", raw, _NODE_FIELDS, problems)
    if problems:
        raise InvalidServices(problems)
    return Node(**values)


def _owner(index: int, raw: Any) -> str:
    name = raw.get("name") if isinstance(raw, Mapping) else None
    return f"service {quoted(name)}" if isinstance(name, str) and name else f"services[{index}]"


def _parse_service(index: int, raw: Any, problems: list[str]) -> Service | None:
    values = parsed(raw, _SERVICE_FIELDS)
    backends = [parsed(item, _BACKEND_FIELDS) for item in values["backends"]] if values else []
    if values is None or None in backends:
        problems += _errors(_owner(index, raw), raw)
        return None
    made = [_make_backend(backend, values["port"]) for backend in backends if backend]
    values["backends"] = tuple(sorted(made, key=lambda one: (ip.sort_key(one.address), one.port)))
    return Service._make(values.values())


def _errors(owner: str, raw: Any) -> list[str]:
    """What is wrong in a service and its backends."""
    found: list[str] = []
    values = parse_fields(owner, raw, _SERVICE_FIELDS, found)
    for index, item in enumerate(values.get("backends") or ()):
        parse_fields(f"{owner}: backends[{index}]", item, _BACKEND_FIELDS, found)
    return found


def _make_backend(values: dict[str, Any], port: int) -> Backend:
    if values["port"] is None:
        values["port"] = port
    if values["serving"] is None:
        values["serving"] = values["ready"]
    return Backend._make(values.values())


def _check_service(service: Service) -> list[str]:
    problems = []
    if service.node_port is None and not service.addresses:
        problems.append(
            "it has no address, so that nothing reaches it: give vip, external_ips, load_balancer_ips or node_port"
        )
    own = {(address, service.port) for address in service.vip}
    seen = set()
    for backend in service.backends:
        endpoint = (backend.address, backend.port)
        if endpoint in seen:
            problems.append(f"backends has {ip.endpoint(*endpoint)} twice: an address and port is allowed once")
        if endpoint in own:
            at = ip.endpoint(*endpoint)
            problems.append(f"backends has {at}, which is the service's own vip: backends must be elsewhere")
        seen.add(endpoint)
    return problems
