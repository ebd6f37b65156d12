# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backends taken out of service, in services as users write them. Pure.

What is wrong in a service is left as it is: to say so is for those who parse it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import addresses as ip
from .fields import quoted
from .service import InvalidServices

_NUMBER = re.compile("[0-9]{1,5}", re.ASCII)


def drain_backends(services: Any, selection: Any) -> list[Any]:
    """The services, with the weight of the selected backends 0. Raises InvalidServices."""
    wanted, given = _selected("drain", selection), _listed("drain", services)
    return [_drained(service, wanted) for service in given] if wanted else list(given)


def find_endpoints(services: Any, selection: Any = None) -> list[dict[str, Any]]:
    """Address, port and protocol of the selected backends (None: of all), each once, in order. Raises InvalidServices."""
    wanted = None if selection is None else _selected("endpoints", selection)
    found = {
        (ip.sort_key(address), int(port), str(service.get("protocol") or "tcp"), address)
        for service in _listed("endpoints", services)
        for backend in _backends(service)
        if wanted is None or wanted & _names(backend, service)
        for address, port in [(_canonical(str(backend.get("address"))), _port(backend, service))]
        if ip.is_address(address) and _NUMBER.fullmatch(str(port))
    }
    return [{"address": address, "port": port, "protocol": protocol} for _key, port, protocol, address in sorted(found)]


def backend_names(services: Sequence[Any]) -> list[str]:
    """Return all by which backends can be selected, sorted."""
    return sorted({name for service in services for backend in _backends(service) for name in _names(backend, service)})


def _listed(owner: str, value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    raise InvalidServices([f"{owner}: services is {quoted(value)}: must be a list of dicts"])


def _selected(owner: str, selection: Any) -> frozenset[str]:
    given = [selection] if isinstance(selection, str) else selection
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) and one for one in given):
        allowed = "must be a list of addresses, of addresses with port, or of names of nodes"
        raise InvalidServices([f"{owner}: backends is {quoted(selection)}: {allowed}"])
    return frozenset(map(_canonical, given))


def _drained(service: Any, wanted: frozenset[str]) -> Any:
    backends = _backends(service)
    concerned = [bool(wanted & _names(backend, service)) for backend in backends]
    if not any(concerned):
        return service
    drained = [{**one, "weight": 0} if gone else one for one, gone in zip(service["backends"], concerned)]
    return {**service, "backends": drained}


def _backends(service: Any) -> list[Mapping[str, Any]]:
    """As many as were given; what is no backend is an empty one."""
    given = service.get("backends") if isinstance(service, Mapping) else None
    given = given if isinstance(given, (list, tuple)) else []
    return [one if isinstance(one, Mapping) else {} for one in given]


def _names(backend: Mapping[str, Any], service: Mapping[str, Any]) -> frozenset[str]:
    """All by which a backend can be selected. What is no name of a node is none, for the parser to refuse."""
    address, port = _canonical(str(backend.get("address"))), _port(backend, service)
    names = {address, _canonical(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")}
    node = backend.get("node")
    return frozenset(names | {node} if node and isinstance(node, str) else names)


def _port(backend: Mapping[str, Any], service: Mapping[str, Any]) -> Any:
    return backend.get("port") or service.get("port")


def _canonical(name: str) -> str:
    """An address, or an address and port, in one spelling; anything else as it is."""
    host, colon, port = name.rpartition(":")
    try:
        return ip.canonical_address(name)
    except ValueError:
        pass
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip.canonical_address(host[1:-1] if bracketed else host)
    except ValueError:
        return name
    return (
        ip.endpoint(address, int(port)) if colon and _NUMBER.fullmatch(port) and bracketed == (":" in address) else name
    )
