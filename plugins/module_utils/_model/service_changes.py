# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changes between two lists of services, a line a service, in words for people: the head of a diff of rules. Pure.

Services are as users write them, and valid. Only those that differ are parsed, since there may be thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import addresses as ip
from .service import Backend, Node, Service, parse_services

_MOST = 4
"""Backends and shares that a line names one by one."""
_APART = ("name", "backends")


def describe_changes(
    before: Sequence[Any], after: Sequence[Any], node: Node, parsed: Mapping[str, Service] | None = None
) -> list[str]:
    """Return a line for each service that is added, changed or removed, by name. parsed: those of ``after``, where they are at hand."""
    old, new = ({one["name"]: one for one in raw} for raw in (before, after))
    differing = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    was, becomes = _parsed(old, differing, node), parsed or _parsed(new, differing, node)
    found = [(name, _line(was.get(name), becomes.get(name))) for name in differing]
    return [f"{name}: {text}" for name, text in found if text]


def _parsed(raw: Mapping[str, Any], names: Sequence[str], node: Node) -> Mapping[str, Service]:
    """Return those of these names, whatever their dataplane."""
    return {one.name: one for one in parse_services([raw[name] for name in names if name in raw], node)}


def _line(old: Service | None, new: Service | None) -> str:
    if new is None:
        return "removed"
    if old is None:
        count = len(new.backends)
        return f"added, {_where(new)}, {count or 'no'} backend{'' if count == 1 else 's'}"
    return ", ".join([*_settings(old, new), *_backends(old, new)])


def _where(service: Service) -> str:
    """Return one address at which a service answers."""
    found = [ip.endpoint(address, service.port) for address in service.addresses]
    return f"{found[0] if found else f'node port {service.node_port}'}/{service.protocol}"


def _settings(old: Service, new: Service) -> Iterator[str]:
    for key in Service._fields:
        sides = getattr(old, key), getattr(new, key)
        if key not in _APART and sides[0] != sides[1]:
            yield f"{key} {_value(sides[0])} -> {_value(sides[1])}"


def _value(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


def _backends(old: Service, new: Service) -> Iterator[str]:
    before, after = _shares(old), _shares(new)
    yield from _some([f"+ {one}" for one in after if one not in before])
    yield from _some([f"- {one}" for one in before if one not in after])
    moved = {one: (before[one], after[one]) for one in before if one in after and before[one] != after[one]}
    if not moved:
        return
    if len(set(moved.values())) == 1:
        names = "" if len(moved) == sum(one in after for one in before) else f" of {', '.join(_some([*moved]))}"
        yield f"shares{names} {' -> '.join(map(str, next(iter(moved.values()), ())))} %"
    else:
        yield "shares " + ", ".join(_some([f"{one} {was} -> {now} %" for one, (was, now) in moved.items()]))


def _some(texts: Sequence[str]) -> list[str]:
    rest = len(texts) - _MOST
    return [*texts[:_MOST], f"{rest} more"] if rest > 0 else list(texts)


def _shares(service: Service) -> Mapping[str, int]:
    """Return the percentage of new connections that each backend gets, rounded."""
    tier = min((one.tier for one in service.backends if _weight(one)), default=0)
    weights = {one: _weight(one) if one.tier == tier else 0 for one in service.backends}
    total = sum(weights.values()) or 1
    return {ip.endpoint(one.address, one.port): round(100 * weight / total) for one, weight in weights.items()}


def _weight(backend: Backend) -> int:
    return backend.weight if backend.ready and not backend.terminating else 0
