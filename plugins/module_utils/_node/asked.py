# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node was asked for, as its generations keep it, in lines for people. Pure.

Of part ``services`` that is a dict: ``settings`` (`settings.SPECIFICATION`), ``services`` (packed), ``drained`` (by playbooks).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._model.drain import drain_backends
from .._model.payload import unpack
from .settings import PREFIX, Settings

_SHORT = 60
"""Characters of a value in a line."""


def settings_of(asked: Mapping[str, Any]) -> Settings:
    """Return the settings of the node."""
    return Settings(_of_services(asked).get("settings") or {})


def services_of(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the services as they were given, drained backends not reckoned with. Raises ValueError."""
    packed = _of_services(asked).get("services")
    return unpack(packed["body"]) if packed else []


def effective_services(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the services with the weight of drained backends 0. Raises ValueError."""
    return drain_backends(services_of(asked), drained(asked))


def drained(asked: Mapping[str, Any]) -> list[str]:
    """Return which backends are drained, by the inventory or by playbooks."""
    return list(dict.fromkeys([*(settings_of(asked).drained or ()), *(_of_services(asked).get("drained") or ())]))


def _of_services(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = asked.get("services")
    return found if isinstance(found, Mapping) else {}


def asks_for_checks(asked: Mapping[str, Any]) -> bool:
    """Tell whether a service has health checks. asked: by part."""
    return bool(_of_services(asked).get("checks"))


def service_lines(asked: Mapping[str, Any]) -> list[str]:
    """Return one line for each service, with its addresses and backends."""
    return [_service_line(one) for one in sorted(effective_services(asked), key=lambda one: str(one.get("name")))]


def _service_line(service: Mapping[str, Any]) -> str:
    addresses = [
        *_listed(service.get("vip")),
        *_listed(service.get("external_ips")),
        *_listed(service.get("load_balancer_ips")),
    ]
    addresses += [f"node port {service['node_port']}"] if service.get("node_port") else []
    backends = [_backend(one, service) for one in service.get("backends") or []]
    place = f"{service.get('port')}/{service.get('protocol') or 'tcp'}"
    return f"{service.get('name')}  {', '.join(map(str, addresses)) or 'no address'}  {place}  -> {', '.join(backends) or 'none'}"


def _listed(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _backend(backend: Mapping[str, Any], service: Mapping[str, Any]) -> str:
    address, port = str(backend.get("address")), backend.get("port") or service.get("port")
    weight = backend.get("weight", 1)
    return (f"[{address}]:{port}" if ":" in address else f"{address}:{port}") + (
        "" if weight == 1 else f" (weight {weight})"
    )


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two generations: settings first, then services by name."""
    lines = _settings_lines(_plain(before), _plain(after))
    old = {str(one.get("name")): one for one in services_of(before)}
    new = {str(one.get("name")): one for one in services_of(after)}
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append("+ " + _service_line(new[name]))
        elif name not in new:
            lines.append("- " + _service_line(old[name]))
        elif old[name] != new[name]:
            lines.append(f"~ {name}: {'; '.join(_changes(old[name], new[name]))}")
    return lines


def _plain(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings_of(asked).values, "drained": drained(asked)}


def _settings_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"~ {PREFIX}{key} {_short(before.get(key))} -> {_short(after.get(key))}" for key in keys]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if key == "backends":
            gone, come = (_minus(*pair) for pair in ((before, after), (after, before)))
            found += [f"- {one}" for one in gone] + [f"+ {one}" for one in come]
            if old != new and not gone and not come:
                found.append("backends otherwise")
        elif old != new:
            found.append(f"{key} {_short(old)} -> {_short(new)}")
    return found


def _minus(service: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    others = {_backend(one, other) for one in other.get("backends") or []}
    return [text for text in (_backend(one, service) for one in service.get("backends") or []) if text not in others]


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _SHORT else text[:_SHORT] + "..."
