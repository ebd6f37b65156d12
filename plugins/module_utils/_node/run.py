# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of a node: what the roles do, in their order, or in the reverse order where it is all to be removed.

Everything is validated before anything is changed. Then each step compares and, unless in check mode, applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._announce.settings import InvalidAnnouncement
from .._dataplane import registry
from .._dataplane.health_record import read_failed
from .._dataplane.service_run import SERVICE_ERRORS, node_of
from .._health.checks import without_failed
from .._kernel.nft import NftError as UnreadableNftError
from .._kernel.overlay import OverlayError
from .._kernel.sysctl import SysctlError
from .._model import addresses as ip
from .._model.fields import quoted
from .._model.messages import printable
from .._model.overlay import VXLAN, InvalidOverlay
from .._model.own_ports import own_ports
from .._model.requirements import backends_by_node, find_needs
from .._model.service import parse_services
from .._node_checks.facts import refuse_own_connection
from .._objects.iptables_text import XtablesError
from .._objects.nftables_changes import NftError
from .._objects.overlay import DEVICE
from .._plan.transaction import UndoFailed
from .._resource.chain.request import InvalidChainError
from . import backend_rules, bridges, kernel_modules, managers, overlay, tools, units
from .announcing import without_held
from .boot import Settings as BootSettings
from .boot import plan_boot, program_change, without_systemd
from .boot_parts import overlay_part
from .change import Change, NodeError, lines, merge_diffs
from .files import refuse_unwritable
from .given import (
    refuse_drain,
    with_others,
    without_drained,
)
from .nft_rules import backend_tables, bridge_tables
from .role_rules import RoleRules, RuleWriter
from .run_node import close_loopback, leave_node, open_loopback, prepare_node
from .run_services import converge
from .run_state import RunState

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

RUN_ERRORS = (
    *SERVICE_ERRORS,
    InvalidAnnouncement,
    InvalidChainError,
    InvalidOverlay,
    NftError,
    NodeError,
    OverlayError,
    SysctlError,
    UndoFailed,
    UnreadableNftError,
    XtablesError,
)
"""What a run raises; each text is one line for the user."""


def run_node(module: AnsibleModule) -> dict[str, Any]:
    """Run the parts of a node that a task names; return the result of the module. Raises InvalidServices and RUN_ERRORS."""
    run = RunState(module)
    missing = tools.missing_tools(run.settings, run.parts, run.runner)
    if missing and not _go_on_without(run, missing):
        return run.result
    _validate(run)
    _refuse_unwritable(run)
    for step in (close_loopback, *(_MAKING if run.settings.is_present else _REMOVING)):
        step(run)
    return {"changed": bool(run.changes), "diff": merge_diffs(run.changes), **run.result}


def _go_on_without(run: RunState, missing: Sequence[str]) -> bool:
    """Return whether the run can go on; in check mode it predicts what it can."""
    packages = tools.packages_of(missing)
    if not run.settings.install_packages:
        raise NodeError(f"{run.settings.name} has no {', '.join(missing)}, and service_proxy_install_packages is false")
    if not run.module.check_mode:
        run.result = {"changed": False, "missing_packages": packages, "diff": {"before": "", "after": ""}}
        return False
    run.changes.append(Change("packages", "", lines(packages)))
    run.missing = tools.called_by_runs(missing)
    if run.missing:
        run.module.warn(
            f"what this host has cannot be read before {', '.join(packages)} are installed: rules and services are shown as "
            "for a host that has none"
        )
    return True


def _validate(run: RunState) -> None:
    """Everything that can be wrong, before anything is changed."""
    settings = run.settings
    unread: dict[str, Any] = {"addresses": []} if "ip" in run.missing and settings.addresses is None else {}
    run.node = node_of(run.runner, {**settings.node, **unread})
    if settings.addresses is None:
        own = without_held(run.node.addresses)
        settings.values["addresses"] = None if own == run.node.addresses else list(own)
        run.node = run.node._replace(addresses=own)
    run.needs = find_needs(run.services, run.node.name)
    _refuse_another_prefix(run)
    if settings.is_present:
        registry.load(settings.dataplane)
        _refuse_wrong_networks("service_proxy_backend_cidrs", settings.all_backend_cidrs)
        problems = settings.problems()
        if problems:
            raise NodeError("\n".join(problems))
    if run.drain.backend:
        refuse_drain(run.drain, run.services, run.listed, settings.drained)
    elif settings.is_present and run.held_given != run.given:
        parsed = parse_services(run.services, run.node, registry.load(settings.dataplane).problems)
        refuse_own_connection(own_ports(parsed, run.node), run.node)
        run.parsed = {service.name: service for service in parsed}
    if run.needs["zone"] and settings.zone is None and settings.is_present:
        run.module.warn(
            f"{settings.name} has no service_proxy_zone: services with prefer_zone use backends of all zones"
        )
    _refuse_missing_devices(run)
    if "bridge" in run.parts:
        bridges.refuse_wrong_bridges(settings, run.links, settings.name)
    run.overlay = overlay.plan_overlay(settings) if "overlay" in run.parts else None
    run.local = [] if "ip" in run.missing else bridges.local_bridges(settings, run.links, run.runner)
    if "node" in run.parts:
        run.modules = kernel_modules.wanted_modules(
            settings, schedulers=run.needs["schedulers"], bridges=run.has_bridges()
        )
        run.kernel = kernel_modules.observe(run.modules, run.runner)
        kernel_modules.refuse_unavailable(run.kernel, settings.name)
    _compile_announcement(run)


def _bridges(run: RunState) -> None:
    if "bridge" not in run.parts:
        return
    for name in bridges.unnamable(run.settings, run.local):
        run.module.warn(f"bridge {name} is left alone: rules can name letters, digits and _.:@- only")
    wanted = bridges.wanted_bridges(run.settings, run.local)
    plan = bridges.plan_modes(bridges.policy_of(wanted), bridges.read_record(), run.links)
    run.do(bridges.mode_change("bridges", plan.end, False), bridges.record_change(plan))
    run.do(bridges.mode_change("bridges", plan.begin, True))
    _role_rules(run, RoleRules("bridge", [bridges.chain_request(run.settings, wanted)], bridge_tables(wanted)))
    run.do(bridges.boot_files(plan))
    at_boot = [bridges.unit()] if bridges.is_hairpin_wanted(plan) else []
    run.do(units.plan_units("units", at_boot, {bridges.UNIT: "multi-user.target"}, run.runner))


def _backends(run: RunState) -> None:
    if "backend" in run.parts:
        addresses = [ip.canonical_address(one) for one in run.needs["backend_addresses"]]
        chains = list(backend_rules.chain_requests(run.settings, addresses))
        _role_rules(run, RoleRules("backend", chains, backend_tables(run.settings, addresses)))


def _overlay(run: RunState) -> None:
    """Ways to the backends of other nodes."""
    if run.overlay is None:
        return
    strays = overlay.stray_backends(run.overlay, backends_by_node(run.services))
    for warning in [*run.overlay.warnings, *strays]:
        run.module.warn(printable(warning))
    run.do(managers.overlay_change(run.settings), overlay.change_of(run.overlay))
    run.boot_parts["overlay"] = overlay_part(run.overlay.wanted)


def _role_rules(run: RunState, rules: RoleRules) -> None:
    writer = RuleWriter(run.module, run.in_iptables)
    run.boot_parts[rules.role] = rules.boot_part(run.in_iptables)
    for change in writer.predict(rules) if run.missing else writer.changes(rules):
        run.do(change)


def _compile_announcement(run: RunState) -> None:
    """What the node is to announce, compiled and validated."""
    settings = run.settings
    if "ip" in run.missing or not run.announcing.is_concerned(settings):
        return
    given = with_others(run.given, run.held_given).services if settings.is_present else []
    check = registry.load(settings.dataplane).problems
    services = without_failed(without_drained(given, run.drained()), read_failed() if given else {}, run.node)[0]
    run.announcing.compile(parse_services(services, run.node, check), run.node)


def _announce(run: RunState) -> None:
    """Addresses of services to the network outside, once the node has the services."""
    run.do(*run.announcing.changes(run.settings.is_present))
    run.result.update(run.announcing.told())


def _save(run: RunState) -> None:
    """Keep what the parts have set for the next boot, and what was asked for."""
    if not run.boot_parts:
        return
    settings = BootSettings(run.settings.save_rules, run.settings.reapply)
    changes = plan_boot(run.boot_parts, settings, run.kept, run.runner)
    warning = without_systemd(changes) if run.settings.save_rules else None
    for line in [*([warning] if warning else []), *_without_checker(run)]:
        run.module.warn(line)
    run.do(*changes)


def _without_checker(run: RunState) -> list[str]:
    part = run.boot_parts.get("services")
    if part is None or units.has_systemd() or not part.asked.get("checks"):
        return []
    return ["health_check of services: without systemd nothing checks their backends, and all are used"]


def _refuse_wrong_networks(variable: str, networks: Sequence[str]) -> None:
    for index, network in enumerate(networks):
        try:
            ip.canonical_network(network)
        except ValueError:
            allowed = "must be a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64"
            raise NodeError(f"{variable}[{index}] is {quoted(network)}: {allowed}") from None


def _refuse_another_prefix(run: RunState) -> None:
    """Raise NodeError where rules have another prefix: by the new one nobody knows whose they are, and they would stay."""
    held, prefix = run.held_given, run.settings.chain_prefix
    if held is None or not registry.presence(held.settings["dataplane"]).uses_iptables:
        return
    if held.settings["chain_prefix"] != prefix:
        raise NodeError(
            f"service_proxy_chain_prefix is {quoted(prefix)}, but the rules of {run.settings.name} begin with "
            f"{held.settings['chain_prefix']}: must be {quoted(held.settings['chain_prefix'])} until they are removed "
            "(service_proxy_state=absent)"
        )


def _refuse_unwritable(run: RunState) -> None:
    """Raise NodeError where what is kept for boot cannot be written, where that is to change."""
    if run.held_given == run.given and not run.drain.backend:
        return
    paths, is_present = run.kept.paths, run.settings.is_present
    directories = [paths.directory]
    if program_change(run.kept, is_present).changed:
        directories.append(paths.program.parent)
    if run.held_given is None:
        directories += [Path("/etc/sysctl.d"), Path("/etc/systemd/system")]
    for directory in directories:
        refuse_unwritable(directory, grows=is_present)


def _refuse_missing_devices(run: RunState) -> None:
    """Raise NodeError for a flow table of devices that are not there. One that has gone since it was made is no error, nor that of VXLAN."""
    settings, held = run.settings, run.held_given
    is_new = held is None or any(
        held.settings.get(key) != settings.values[key] for key in ("dataplane", "flow_offload")
    )
    if not (settings.is_present and run.services and "proxy" in run.parts and is_new) or run.in_iptables:
        return
    there = [*run.links.names(), *([DEVICE] if settings.values["overlay"] == VXLAN else [])]
    for index, name in enumerate(settings.flow_offload):
        if name not in there:
            raise NodeError(
                f"service_proxy_flow_offload[{index}] is {quoted(name)}: {settings.name} has no such device: must be one of "
                f"{', '.join(map(printable, there))}"
            )


_MAKING = (prepare_node, _bridges, _backends, _overlay, converge, open_loopback, _save, _announce)
_REMOVING = (_announce, converge, _overlay, _backends, _bridges, leave_node, _save)
