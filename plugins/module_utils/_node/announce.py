# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node announces to the network outside: compiled of its services, compared with its files, tested and loaded by the daemons."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .._announce.addresses import Address, find_addresses, service_problems, service_warnings
from .._announce.bgp import bird_text, has_bfd, router_id
from .._announce.settings import (
    VRRP,
    Announcement,
    AnnouncingNode,
    InvalidAnnouncement,
    is_fit_interface,
    parse_announcement,
)
from .._announce.vrrp import (
    SWITCHES,
    WITHDRAWN,
    TooManyGroups,
    find_groups,
    held_addresses,
    keepalived_text,
    switches,
)
from .._dataplane.health_record import read_failed
from .._health.checks import without_failed
from .._kernel import link
from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, remove_file, write_file
from .._kernel.process import Runner
from .._model.messages import quoted
from .._model.service import InvalidServices, Node, Service, parse_node, parse_services
from . import daemons
from .asked import effective_services, settings_of
from .change import Change, NodeError, lines, printable
from .daemon_files import daemon_change, read_foreign
from .daemons import Running
from .files import File, plan_files, read_text
from .settings import BEGIN, COMPLETE, END

RECORD = "/var/lib/layer4-service-proxy.announce"
"""How the node announces, and how its daemons were found: JSON."""
SETTINGS = (
    *("announce", "announce_vips", "announce_address", "announce_nodes"),
    *("vrrp_interface", "vrrp_id", "bgp_asn", "bgp_neighbors"),
)
ERRORS = (NodeError, FileError, InvalidAnnouncement, InvalidServices, TooManyGroups, ValueError)
"""What `refresh` raises."""
_NUMBERS = {BEGIN: "1\n", COMPLETE: "2\n"}
_NO_PLAN = Announcement("", False, AnnouncingNode("", {}), (), None, 1, 0, ())


class Record(NamedTuple):
    """What earlier runs have left."""

    settings: Mapping[str, Any]
    """Those of `SETTINGS` and ``name``; empty where nothing is announced."""
    found: Mapping[str, Running]
    """By tool: how a daemon was before it was first used."""


class Wanted(NamedTuple):
    """What a node is to announce."""

    plan: Announcement
    text: str
    """Of our file of the daemon."""
    switches: Mapping[str, str]
    """By path: content."""
    addresses: Sequence[Address]


def read_record() -> Record:
    """Return what earlier runs have left. Raises NodeError."""
    text = read_text(RECORD)
    if text is None:
        return Record({}, {})
    try:
        found = json.loads(text)
        return Record(dict(found["settings"]), {tool: Running(*one) for tool, one in found["found"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NodeError(f"{RECORD} is damaged: remove it, and run site.yml again") from None


def held_by_keepalived() -> set[str]:
    """Return the addresses that keepalived may have given an interface for us, which are no addresses of the node. Raises NodeError."""
    return set(held_addresses(read_text(daemons.keepalived().main.own) or ""))


def withdrawal_now() -> str:
    """Return which of `settings.WITHDRAWALS` the node is in. Raises NodeError."""
    text = read_text(WITHDRAWN)
    return END if text in (None, "0\n") else BEGIN if text == _NUMBERS[BEGIN] else COMPLETE


def withdrawal_change(withdrawal: str) -> Change:
    """Return the change of the file that withdraws the node, which keepalived follows. Raises NodeError."""
    return plan_files("withdrawn", {WITHDRAWN: File(_NUMBERS[withdrawal]) if withdrawal in _NUMBERS else None})


def compile_announcement(
    settings: Mapping[str, Any],
    services: Sequence[Service],
    node: Node,
    withdrawal: str,
    runner: Runner,
) -> Wanted | None:
    """Return what the node is to announce, None for nothing. settings: `SETTINGS` and name. Raises InvalidAnnouncement and NodeError."""
    plan = parse_announcement(settings)
    if plan is None:
        return None
    found = find_addresses(services, node, plan.vips)
    problems = service_problems(found, services, plan)
    if problems:
        raise InvalidAnnouncement(problems)
    if plan.method == VRRP:
        return _compile_vrrp(plan, found, node, runner)
    return Wanted(plan, _bird_text(plan, found, withdrawal), {}, found)


def _compile_vrrp(plan: Announcement, found: Sequence[Address], node: Node, runner: Runner) -> Wanted:
    own = sorted({one.address for one in found} & set(node.addresses))
    if own:
        raise NodeError(
            f"{own[0]} is to be announced, but is an address of {plan.own.name} itself: must be an address that no node has itself"
        )
    try:
        groups = find_groups(found, plan.vrrp_id)
    except TooManyGroups as error:
        raise NodeError(str(error)) from None
    return Wanted(plan, keepalived_text(groups, plan, _interface(plan, runner)), switches(groups), found)


def _interface(plan: Announcement, runner: Runner) -> str:
    """Return the interface that gets the addresses. Raises NodeError."""
    there = link.addresses(runner)
    if plan.interface is not None:
        if plan.interface not in there:
            raise NodeError(
                f"service_proxy_vrrp_interface is {quoted(plan.interface)}: {plan.own.name} has no such interface: must be one of "
                f"{', '.join(map(printable, sorted(there)))}"
            )
        return plan.interface
    own = set(plan.own.addresses.values())
    found = next((name for name, addresses in there.items() if own & set(addresses)), None)
    if found is None:
        wanted = ", ".join(sorted(own)) or "which is not given"
        raise NodeError(
            f"no interface of {plan.own.name} has service_proxy_announce_address ({wanted}): give service_proxy_vrrp_interface"
        )
    if not is_fit_interface(found):
        raise NodeError(
            f"{', '.join(sorted(own))} of {plan.own.name} is on interface {printable(found)}, whose name cannot stand in keepalived's "
            "configuration: give service_proxy_vrrp_interface, or rename it: 1 to 15 characters of A-Z, a-z, 0-9, '_', '.' and '-'"
        )
    return found


def warnings(wanted: Wanted) -> list[str]:
    """Return what is allowed, but hardly meant."""
    return service_warnings(wanted.addresses, wanted.plan)


def plan_announcement(
    wanted: Wanted | None, settings: Mapping[str, Any], record: Record, runner: Runner
) -> list[Change]:
    """Return what makes the daemons announce what is wanted, and leaves those alone that are not ours to use. Raises NodeError."""
    plan = wanted.plan if wanted else None
    found = dict(record.found)
    switching = _switch_change(wanted.switches if wanted else {})
    loading = [
        daemon_change(daemon, wanted.text if wanted and wanted.plan.method == daemon.method else None, found, runner)
        for daemon in (daemons.keepalived(), daemons.bird(router_id(plan or _NO_PLAN)))
    ]
    kept = {"found": found, "settings": {key: settings[key] for key in (*SETTINGS, "name")}} if wanted else None
    recording = plan_files("announce", {RECORD: File(json.dumps(kept, sort_keys=True) + "\n", 0o600) if kept else None})
    # A run that is killed does not forget how it found the daemons.
    return [recording, switching, *loading] if wanted else [*loading, switching, recording]


def refresh(read_asked: Callable[[], Mapping[str, Any]], stands: Callable[[], bool], runner: Runner) -> None:
    """Announce what the node can serve now, by its last run's settings; nothing else of what that run has left is looked at.

    read_asked: returns by part what the current generation was asked for; stands: whether the node has its services. Neither is called
    where nothing is announced. Raises ERRORS.
    """
    plan = parse_announcement(read_record().settings)
    if plan is None:
        return
    found = _find_addresses(plan, read_asked())
    if not stands():
        found = [one._replace(is_served=False) for one in found]
    if plan.method == VRRP:
        _switch_change(switches(find_groups(found, plan.vrrp_id))).apply()
        return
    daemon = daemons.bird(router_id(plan))
    files = plan_files("", {daemon.main.own: File(_bird_text(plan, found, withdrawal_now()))})
    if files.changed:
        files.apply()
        if daemons.observe(daemon, runner).active:
            daemons.reload(daemon, runner)


def _find_addresses(plan: Announcement, asked: Mapping[str, Any]) -> list[Address]:
    """Return what is to be announced of what the node was asked for, as health checks leave it."""
    settings = settings_of(asked)
    node = parse_node({**settings.node, "addresses": settings.addresses or []})
    services = without_failed(effective_services(asked), read_failed(), node)[0]
    return find_addresses(parse_services(services, node), node, plan.vips)


def tell_announced(address: str, asked: Mapping[str, Any], own: Collection[str]) -> str:
    """Return how an address is announced, for people; empty where it is not. own: addresses on interfaces. Raises ERRORS."""
    plan = parse_announcement(read_record().settings)
    found = [one for one in _find_addresses(plan, asked) if one.address == address] if plan else []
    if not plan or not found:
        return ""
    if withdrawal_now() != END:
        return f"by {plan.method}, but not by this node, which is drained"
    if not found[0].is_served:
        return f"by {plan.method}, but not by this node, which has no usable backend for it"
    if plan.method == VRRP:
        return f"by vrrp, held by {'this' if address in own else 'another'} node now"
    return f"by {plan.method}"


def _bird_text(plan: Announcement, found: Sequence[Address], withdrawal: str) -> str:
    served = [one.address for one in found if one.is_served and withdrawal != COMPLETE]
    main = daemons.bird(router_id(plan)).main
    return bird_text(plan, served, withdrawal == BEGIN, not has_bfd(main.without(read_foreign(main.path)) or ""))


def _switch_change(wanted: Mapping[str, str]) -> Change:
    """Return the change of the files by which keepalived knows what this node can serve."""
    held = _held_switches()
    if held == wanted:
        return Change("switches")

    def apply() -> None:
        ensure_directory(RUN_DIRECTORY)
        if wanted:
            ensure_directory(Path(SWITCHES))
        for path in held.keys() - wanted.keys():
            remove_file(Path(path))
        for path, text in wanted.items():
            if held.get(path) != text:
                write_file(Path(path), text)
        if not wanted:
            os.rmdir(SWITCHES)

    before, after = (lines(f"{path} {text.strip()}" for path, text in sorted(one.items())) for one in (held, wanted))
    return Change("switches", before, after, apply)


def _held_switches() -> dict[str, str]:
    try:
        names = os.listdir(SWITCHES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise NodeError(f"{SWITCHES} cannot be read: {error.strerror}") from error
    return {path: read_text(path) or "" for path in (f"{SWITCHES}/{name}" for name in names)}
