# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node was last asked for, kept on the node: `drain` and `undrain` change one backend of that, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._model.drain import backend_names, drain_backends, find_endpoints
from .._model.messages import did_you_mean
from .._model.payload import Payload, pack, unpack
from .change import Change, NodeError, lines
from .files import File, plan_files, read_text
from .settings import DEFAULTS

DRAINED = "/var/lib/layer4-service-proxy.drained"
"""Backends that take no new connections until they are undrained, one a line, by address, by address and port, or by node.

A name that is no plain line (a line break in it, a quote first) is in JSON.
"""


class Given(NamedTuple):
    """Settings and services of a node."""

    settings: Mapping[str, Any]
    """By the names of options."""
    payload: Payload
    """The services, as users write them."""

    @property
    def services(self) -> list[Any]:
        return unpack(self.payload.body)


class Drain(NamedTuple):
    """What a run is to do about drained backends."""

    begin: str | None
    """The backend to drain."""
    end: str | None
    """The backend to bring back."""
    is_known: bool
    """Whether a service of the inventory has the backend, be it on another node."""

    @property
    def backend(self) -> str | None:
        return self.begin or self.end


def payload_of(services: Sequence[Any], payload: Mapping[str, str] | None) -> Payload:
    """Return the services as one text, however they came. Raises NodeError."""
    if payload:
        return Payload(payload["digest"], payload["body"])
    try:
        return pack(services)
    except TypeError as error:
        raise NodeError(f"service_proxy_services has a value that JSON does not know: {error}") from error


def last_given(asked: Mapping[str, Any]) -> Given | None:
    """Return what this node was last asked for; None where it was not, or where that is lost.

    asked: of the current generation, by part.
    """
    found = asked.get("services")
    try:
        return Given({**DEFAULTS, **found["settings"]}, Payload(**found["services"])) if found else None
    except (KeyError, TypeError):
        return None


def drained_then(held: Given, asked: Mapping[str, Any]) -> list[str]:
    """Return the backends that were drained behind the run that gave this node what it holds. asked: as of `last_given`."""
    listed = asked.get("services", {}).get("drained") or ()
    return list(dict.fromkeys([*(held.settings.get("drained") or ()), *listed]))


def given_at(asked: Mapping[str, Any], number: int) -> tuple[Given, list[str]]:
    """Return what an earlier run was given, and which backends playbooks had drained then. Raises NodeError.

    asked: of that generation, by part.
    """
    found = last_given(asked)
    if found is None:
        raise NodeError(f"generation {number} is no rollback's aim: no services were asked for then")
    return found, list(asked["services"].get("drained") or ())


def with_others(given: Given, held: Given | None) -> Given:
    """Return what a node has been asked for behind a run that is not exclusive: the services of earlier runs stay."""
    if held is None or given.settings["exclusive"]:
        return given
    services = {_name(one): one for one in [*held.services, *given.services]}
    return given._replace(payload=pack(list(services.values())))


def _name(service: Any) -> Any:
    return json.dumps(service.get("name")) if isinstance(service, Mapping) else ""


def read_drained() -> list[str]:
    """Return the backends that are drained. Raises NodeError where that cannot be read."""
    try:
        return [_from_line(line) for line in (read_text(DRAINED) or "").split("\n") if line]
    except ValueError as error:
        raise NodeError(f"{DRAINED} cannot be understood: {error}") from error


def drained_after(before: Sequence[str], drain: Drain, present: bool) -> list[str]:
    """Return the list behind the run."""
    added = {drain.begin} if drain.begin else set()
    return sorted({*before, *added} - {drain.end}) if present else []


def drained_change(after: Sequence[str]) -> Change:
    """Return the change of the list. Raises NodeError."""
    return plan_files("drained backends", {DRAINED: File(lines(map(to_line, after))) if after else None})


def to_line(name: str) -> str:
    """Return a name as one line: as it is, or in JSON."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def _from_line(line: str) -> str:
    return str(json.loads(line)) if line.startswith('"') else line


def without_drained(services: Sequence[Any], drained: Sequence[str]) -> list[Any]:
    """Return the services with the weight of drained backends 0."""
    return drain_backends(services, list(drained))


def refuse_drain(drain: Drain, services: Sequence[Any], listed: Sequence[str], in_inventory: Sequence[str]) -> None:
    """Raise NodeError for what no service has, and for an undrain that changes nothing because of another word.

    listed: what the playbook has drained; in_inventory: service_proxy_drained.
    """
    name = f"service_proxy_backend is {json.dumps(drain.backend)}"
    endpoints = find_endpoints(services, [drain.backend])
    if drain.begin and not endpoints and not drain.is_known:
        raise NodeError(
            f"{name}, which no service has: {did_you_mean(drain.backend, backend_names(services))}must be the address of a backend "
            "(10.0.0.11), its address and port (10.0.0.11:8080, [fd00::11]:8080), or the node of backends"
        )
    if drain.end is None:
        return
    others = [*in_inventory, *(one for one in listed if one != drain.end)]
    if not endpoints and drain.end not in listed and not drain.is_known:
        raise NodeError(
            f"{name}, which no service has, and which is not drained: must be one of {json.dumps([*in_inventory, *listed])}"
        )
    still = find_endpoints(services, others) if others else []
    if endpoints and all(one in still for one in endpoints):
        raise NodeError(
            f"{name}, which stays drained by what else is: bring that back, or take it out of the inventory: on this node "
            f"{json.dumps(others[len(in_inventory) :])}, in service_proxy_drained {json.dumps(list(in_inventory))}"
        )
