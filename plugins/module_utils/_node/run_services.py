# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part ``proxy`` of a run: the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._dataplane.service_run import Converged, converge_services
from .._health.checks import ask_for_checks
from .._model.drain import find_endpoints
from .._model.request import Request
from .._model.service_changes import describe_changes
from .._objects.boot import BootState
from .boot_edit import edited_state
from .boot_parts import services_part
from .change import Change, lines
from .given import drained_after, drained_change, drained_then, to_line, with_others, without_drained
from .run_state import RunState


def converge(run: RunState) -> None:
    """Make the services what they are to be, and keep for boot what that took."""
    if "proxy" not in run.parts:
        return
    settings = run.settings
    listed = drained_after(run.listed, run.drain, settings.is_present)
    run.do(drained_change(listed))
    drained = run.drained()
    converged = _predict_services(run) if run.missing else _converge_services(run, drained)
    done = converged.result
    if done["changed"]:
        run.changes.insert(0, Change("services", "", lines(_service_changes(run, drained))))
        run.changes.append(Change("", done["diff"]["before"], done["diff"]["after"]))
    run.result.update({key: done[key] for key in ("added", "updated", "removed", "conntrack_deleted", "unhealthy")})
    _tell_drained(run, drained)
    if done["unhealthy"]:
        run.module.warn(f"By health checks: {'; '.join(done['unhealthy'])}")
    given = with_others(run.given, run.held_given)
    checks = ask_for_checks(run.services if given is run.given else given.services)

    def state() -> BootState | None:
        return converged.boot_state() or edited_state(run.kept, run.held_given, given, drained, run.node)

    run.boot_parts["services"] = (
        services_part(given, drained, listed, run.node, run.kept.program, state, checks)
        if settings.is_present
        else None
    )


def _converge_services(run: RunState, drained: Sequence[str]) -> Converged:
    settings = run.settings
    services: list[Any] = []
    payload: Mapping[str, str] = {}
    if drained:
        services = without_drained(run.services, drained)
    elif settings.is_present:
        payload = run.given.payload._asdict()
    exclusive = settings.exclusive or not settings.is_present
    request = Request(settings.state, services, exclusive, settings.dataplane)
    return converge_services(run.module, request, settings.node, payload, "node" in run.parts)


def _service_changes(run: RunState, drained: Sequence[str]) -> list[str]:
    """Return the lines that say what becomes of services, against what the node was last given."""
    held = run.held_given
    after = without_drained(run.services, drained) if run.settings.is_present else []
    parsed = None if drained else run.parsed
    if held is None:
        return describe_changes([], after, run.node, parsed)
    before = without_drained(held.services, drained_then(held, run.kept.asked))
    names = {one["name"] for one in after}
    if run.settings.is_present and not run.settings.exclusive:
        before = [one for one in before if one["name"] in names]
    return describe_changes(before, after, run.node, parsed)


def _predict_services(run: RunState) -> Converged:
    """Return what becomes of services on a host that has none, for want of the tools that read it."""
    options = {
        "node": {**run.settings.node, "addresses": list(run.node.addresses)},
        "dataplane": run.settings.dataplane,
    }
    # What a run needs hardly ever is compiled only then.
    from .._dataplane.offline import render_services  # pylint: disable=import-outside-toplevel

    text = render_services(run.services, options)
    names = sorted(one["name"] for one in run.services)
    diff = {"before": "", "after": text}
    lists = {"added": names, "updated": [], "removed": []}
    rest = {"conntrack_deleted": 0, "unhealthy": []}
    return Converged({"changed": bool(text), "diff": diff, **lists, **rest}, lambda: None)


def _tell_drained(run: RunState, drained: Sequence[str]) -> None:
    run.result["drained"] = list(drained)
    if drained:
        run.module.warn(f"Drained, so that they take no new connections: {', '.join(map(to_line, drained))}")
    if run.drain.backend:
        run.result["endpoints"] = find_endpoints(run.services, [run.drain.backend])
        if run.given != run.asked:
            run.module.warn(
                "the inventory asks for other services or settings than this node was last given: only the backend "
                "was changed; site.yml does the rest"
            )
    if run.module.params["generation"] is not None and run.given != run.asked:
        run.module.warn("the inventory asks for other services or settings than this generation: site.yml brings them")
