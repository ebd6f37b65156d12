# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of the ipvs dataplane has to look at: everything, or only what is asked for otherwise than in the last run (`cache`),
or only the services that a request names (`named`).
"""

from __future__ import annotations

from ..._model.request import Request
from ..._model.service import InvalidServices, Node, parse_services
from ..._model.service_facts import facts_of
from ..interface import Host, Observation
from .cache import Record, decode_record, decode_services, difference, digest_of_request, settings_digest, store
from .compile import compile_frontends
from .host import State
from .known import KnownState, others_that_matter
from .named import observe_named
from .problems import problems

_MOST_DIFFERING = 1000
"""Services; beyond that the whole is little more work."""


def observe(host: Host, node: Node, request: Request) -> Observation:
    """Read what there is, unless the last run left it, and was asked for the same, or for the same but for some services."""
    is_whole = request.state == "present" and request.exclusive and bool(request.services)
    state = State(host, node, needs_ipvs=request.state == "present")
    if not is_whole:
        return observe_named(host, node, request) or Observation(request, state)
    state.asked, state.services = _digest(request, node), request.services
    text = host.facility(store).load() if state.asked else ""
    record = decode_record(text)
    if record is None or record.settings != settings_digest(node):
        if not host.check_mode:
            state.found = state.read_with_fingerprint()
        return Observation(request, state)
    state.found = state.fingerprint()
    if record.fingerprint != state.found:
        return Observation(request, state)
    if record.asked == state.asked:
        judged = [one for one in request.services if one.get("protocol") == "udp"] if record.has_udp else []
        nothing = Request("present", [], False, request.dataplane, unchanged=judged)
        return Observation(nothing, KnownState(host, node, {}, {}), record.facts)
    return _narrowed(host, node, request, state, record, text) or Observation(request, state)


def _digest(request: Request, node: Node) -> str:
    try:
        return digest_of_request(request, node)
    except TypeError:
        return ""  # what is no JSON is refused by the parser


def _narrowed(host: Host, node: Node, request: Request, whole: State, record: Record, text: str) -> Observation | None:
    """Return the observation of the services that differ; None where more than virtual services and their destinations do."""
    held = decode_services(text)
    found = difference(held, request.services) if held is not None else None
    if found is None or len(found.after) > _MOST_DIFFERING:
        return None
    try:
        before, after = (parse_services(raw, node, problems) for raw in (found.before, found.after))
    except InvalidServices:
        return None
    had, has = (compile_frontends(services, node) for services in (before, after))
    methods = {(one.name, one.forward_method) for one in before} == {(one.name, one.forward_method) for one in after}
    is_local = any(backend.address in node.addresses for service in [*before, *after] for backend in service.backends)
    if had.keys() != has.keys() or not methods or is_local:
        return None
    others = others_that_matter(found.kept, before, after, node)
    if others is None:
        return None
    state = KnownState(host, node, had, has, others)
    state.asked, state.services = whole.asked, whole.services
    state.found, state.images = whole.found, whole.images
    state.untouched = record.fingerprint.ipvs - state.touched()
    narrower = request._replace(
        services=found.after,
        exclusive=False,
        unchanged=[raw for raw in found.kept if raw.get("protocol") == "udp"],
    )
    named = tuple(f'service "{one.name}":' for one in before)
    facts = record.facts._replace(
        unmasqueraded_backends=record.facts.unmasqueraded_backends
        - (facts_of(before, node).unmasqueraded_backends - others.addresses),
        warnings=tuple(text for text in record.facts.warnings if not text.startswith(named)),
    )
    return Observation(narrower, state, facts)
