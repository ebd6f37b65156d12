# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which checks the services of a node ask for, and which of their backends are out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._model import addresses as ip
from .._model.health_check import HealthCheck
from .._model.raw import backends_of
from .._model.service import Backend, InvalidServices, Node, Service, parse_services


class Probe(NamedTuple):
    """One check of one endpoint, however many services share it. path and status: empty for tcp."""

    address: str
    port: int
    type: str
    path: str
    status: tuple[tuple[int, int], ...]
    interval: int
    timeout: int
    rise: int
    fall: int

    def __str__(self) -> str:
        return f"{self.type} {ip.endpoint(self.address, self.port)}{self.path}"


class Out(NamedTuple):
    """A backend that takes no new connections of a service because a check of it has failed."""

    service: str
    backend: Backend
    probe: Probe


def ask_for_checks(services: Iterable[Any]) -> bool:
    """Tell whether a service, as users write them, has health checks."""
    return any(isinstance(one, Mapping) and one.get("health_check") is not None for one in services)


def probe_of(backend: Backend, check: HealthCheck) -> Probe:
    """Return the check of a backend."""
    port = backend.port if check.port is None else check.port
    asks = ("", ()) if check.type == "tcp" else (check.path, check.status)
    return Probe(backend.address, port, check.type, *asks, check.interval, check.timeout, check.rise, check.fall)


def probes(services: Iterable[Service]) -> set[Probe]:
    """Return all distinct checks, those of drained backends too: what is known of these is no news when they are back."""
    return {
        probe_of(one, service.health_check) for service in services if service.health_check for one in service.backends
    }


def backends_out(service: Service, failed: Collection[Probe]) -> list[Backend]:
    """Return the backends that take no new connections because of their checks; none, where too few are healthy.

    Backends that are not ready or have no weight are neither counted nor named: they take no new connections anyway.
    """
    check = service.health_check
    if check is None:
        return []
    counted = [backend for backend in service.backends if backend.ready and backend.weight]
    out = [backend for backend in counted if probe_of(backend, check) in failed]
    healthy = len(counted) - len(out)
    if check.panic_threshold is not None and 100 * healthy <= check.panic_threshold * len(counted):
        return []
    return out


def without_failed(services: Sequence[Any], failed: Collection[Probe], node: Node) -> tuple[list[Any], list[Out]]:
    """Return services, as users write them, as checks leave them, and which backends are out.

    A backend that is out keeps its established connections, as a drained one does; flows of UDP move. Services are rewritten as they
    are written, so that whatever compares requests sees what checks have found. What is wrong in a service is left for who parses it.
    """
    addresses = {probe.address for probe in failed}
    out: list[Out] = []
    left = [_without_failed(raw, failed, node, out) if _may_fail(raw, addresses) else raw for raw in services]
    return left, out


def _may_fail(raw: Any, addresses: Collection[str]) -> bool:
    if not isinstance(raw, Mapping) or raw.get("health_check") is None:
        return False
    backends = raw.get("backends")
    return isinstance(backends, (list, tuple)) and any(_address(one) in addresses for one in backends)


def _without_failed(raw: Mapping[str, Any], failed: Collection[Probe], node: Node, out: list[Out]) -> Mapping[str, Any]:
    try:
        (service,) = parse_services([raw], node)
    except InvalidServices:
        return raw
    check = service.health_check
    found = [Out(service.name, one, probe_of(one, check)) for one in backends_out(service, failed)] if check else []
    if not found:
        return raw
    out += found
    gone = {(one.backend.address, one.backend.port) for one in found}
    unused = {"ready": False, "serving": False} if service.protocol == "udp" else {"weight": 0}
    backends = [
        {**one, **unused} if (end.address, end.port) in gone else one
        for one, end in zip(raw["backends"], backends_of(raw))
    ]
    return {**raw, "backends": backends}


def _address(backend: Any) -> str:
    """The address in canonical spelling; of IPv4 there is one."""
    address = backend.get("address") if isinstance(backend, Mapping) else None
    if not isinstance(address, str) or ":" not in address:
        return str(address)
    return ip.canonical_address(address) if ip.is_address(address) else address
