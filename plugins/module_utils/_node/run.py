# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of a node: what the roles do, in their order, or in the reverse order where it is all to be removed.

Everything is validated before anything is changed. Then each step compares and, unless in check mode, applies.
"""

# pylint: disable=import-outside-toplevel

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._announce.settings import InvalidAnnouncement
from .._dataplane import registry
from .._dataplane.service_run import SERVICE_ERRORS, Converged, converge_services, node_of
from .._health.checks import ask_for_checks
from .._kernel.nft import NftError as UnreadableNftError
from .._kernel.overlay import OverlayError
from .._kernel.process import ModuleRunner
from .._kernel.sysctl import SysctlError
from .._model import addresses as ip
from .._model.drain import find_endpoints
from .._model.fields import quoted
from .._model.messages import printable
from .._model.overlay import InvalidOverlay
from .._model.own_ports import own_ports
from .._model.request import Request
from .._model.requirements import backends_by_node, find_needs
from .._model.service import InvalidServices, parse_services
from .._model.service_changes import describe_changes
from .._node_checks.facts import refuse_own_connection
from .._objects.iptables_text import XtablesError
from .._objects.nftables_changes import NftError
from .._plan.transaction import UndoFailed
from .._resource.chain.request import InvalidChainError
from . import backend_rules, bridges, kernel_modules, managers, overlay, sysctls, tools, units
from .announcing import Announcing, without_held
from .boot import Part, asked_of, observe, plan_boot, without_systemd
from .boot import Settings as BootSettings
from .boot_parts import overlay_part, services_part
from .bridge_modes import Links
from .change import Change, NodeError, lines, merge_diffs
from .given import (
    Drain,
    Given,
    drained_after,
    drained_change,
    given_at,
    last_given,
    payload_of,
    read_drained,
    refuse_drain,
    to_line,
    with_others,
    without_drained,
)
from .nft_rules import backend_tables, bridge_tables
from .role_rules import RoleRules, RuleWriter
from .settings import Settings

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


class NodeRun:
    """A run of the parts of a node that a task names."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.runner = ModuleRunner(module)
        self.parts: Collection[str] = module.params["parts"]
        self.drain = Drain(module.params["drain"], module.params["undrain"], module.params["is_known"])
        self.announcing = Announcing(module, self.runner)
        self.kept = observe()
        self.boot_parts: dict[str, Part | None] = {}
        self.held_given = last_given(self.kept.asked)
        self.asked = Given(
            Settings(module.params).values, payload_of(module.params["services"], module.params["payload"])
        )
        self.listed = read_drained()
        self.given = self._given()
        self.settings = Settings(self.given.settings)
        self.services = self.given.services
        self.in_iptables = registry.presence(self.settings.dataplane).uses_iptables
        self.links = Links()
        self.missing: Sequence[str] = ()
        self.changes: list[Change] = []
        self.result: dict[str, Any] = {}

    def _given(self) -> Given:
        """What the node is to be: what the task says, unless that is about one backend, or about an earlier run."""
        number = self.module.params["generation"]
        if number is not None:
            given, self.listed = given_at(asked_of(number), number)
            return given
        if not self.drain.backend and not self.announcing.withdrawal:
            return self.asked
        if self.held_given is None:
            lost = self.kept.problems[0] if self.kept.problems else "this node was not given any services yet"
            raise NodeError(f"{lost}: run site.yml first")
        return self.held_given

    def run(self) -> dict[str, Any]:
        """Return the result of the module. Raises InvalidServices and RUN_ERRORS."""
        missing = tools.missing_tools(self.settings, self.parts, self.runner)
        if missing and not self._go_on_without(missing):
            return self.result
        self._validate()
        steps = [self._prepare_node, self._bridges, self._backends, self._overlay, self._proxy, self._open_loopback]
        steps += [self._save, self._announce]
        if not self.settings.is_present:
            steps = [
                self._announce,
                self._proxy,
                self._overlay,
                self._backends,
                self._bridges,
                self._leave_node,
                self._save,
            ]
        for step in (self._close_loopback, *steps):
            step()
        return self._told()

    def _go_on_without(self, missing: Sequence[str]) -> bool:
        """Return whether the run can go on; in check mode it predicts what it can."""
        packages = tools.packages_of(missing)
        if not self.settings.install_packages:
            raise NodeError(
                f"{self.settings.name} has no {', '.join(missing)}, and service_proxy_install_packages is false"
            )
        if not self.module.check_mode:
            self.result = {"changed": False, "missing_packages": packages, "diff": {"before": "", "after": ""}}
            return False
        self.changes.append(Change("packages", "", lines(packages)))
        self.missing = tools.called_by_runs(missing)
        if self.missing:
            self.module.warn(
                f"what this host has cannot be read before {', '.join(packages)} are installed: rules and services are shown as "
                "for a host that has none"
            )
        return True

    def _validate(self) -> None:
        """Everything that can be wrong, before anything is changed."""
        settings = self.settings
        unread: dict[str, Any] = {"addresses": []} if "ip" in self.missing and settings.addresses is None else {}
        self.node = node_of(self.runner, {**settings.node, **unread})
        if settings.addresses is None:
            own = without_held(self.node.addresses)
            settings.values["addresses"] = None if own == self.node.addresses else list(own)
            self.node = self.node._replace(addresses=own)
        self.needs = find_needs(self.services, self.node.name)
        if settings.is_present:
            registry.load(settings.dataplane)
            _refuse_wrong_networks("service_proxy_backend_cidrs", settings.all_backend_cidrs)
        if self.drain.backend:
            refuse_drain(self.drain, self.services, self.listed, settings.drained)
        elif settings.is_present and self.held_given != self.given:
            parsed = parse_services(self.services, self.node, registry.load(settings.dataplane).problems)
            refuse_own_connection(own_ports(parsed, self.node), self.node)
        if self.needs["zone"] and settings.zone is None and settings.is_present:
            self.module.warn(
                f"{settings.name} has no service_proxy_zone: services with prefer_zone use backends of all zones"
            )
        if "bridge" in self.parts:
            bridges.refuse_wrong_bridges(settings, self.links, settings.name)
        self.overlay = overlay.plan_overlay(settings) if "overlay" in self.parts else None
        self.local = [] if "ip" in self.missing else bridges.local_bridges(settings, self.links, self.runner)
        if "node" in self.parts:
            self.modules = kernel_modules.wanted_modules(
                settings, schedulers=self.needs["schedulers"], bridges=self._has_bridges()
            )
            self.kernel = kernel_modules.observe(self.modules, self.runner)
            kernel_modules.refuse_unavailable(self.kernel, settings.name)
        self._compile_announcement()

    def _has_bridges(self) -> bool:
        """Return whether bridged traffic is to pass the rules."""
        if self.settings.bridge_netfilter is not None:
            return bool(self.settings.bridge_netfilter)
        given = self.settings.given_bridges
        return bool(self.local if given is None else given)

    def _do(self, *changes: Change) -> None:
        """Apply what differs, unless in check mode."""
        for change in changes:
            if change.changed:
                self.changes.append(change)
                if not self.module.check_mode:
                    change.apply()

    def _observe_sysctls(self) -> tuple[sysctls.SysctlPlan, sysctls.Values]:
        wanted = sysctls.wanted_sysctls(
            self.settings,
            ipv6=self.needs["ipv6"],
            direct="direct" in self.needs["forward_methods"],
            bridges=self._has_bridges(),
        )
        return sysctls.observe(wanted, self.settings.is_present)

    def _prepare_node(self) -> None:
        """Kernel modules, sysctls and network managers, before anything needs them."""
        if "node" not in self.parts:
            return
        self._do(kernel_modules.load_change(self.kernel, self.runner))
        self._do(kernel_modules.file_change(self.modules, self.kernel))
        plan, now = self._observe_sysctls()
        self._do(sysctls.value_change("sysctl", plan.give_back, now))
        # Before they are set, so that a run that is killed does not forget what it found.
        self._do(sysctls.file_change(plan), sysctls.value_change("sysctl", plan.early, now))
        self._do(managers.manager_change(self.settings))

    def _open_loopback(self) -> None:
        """Set what is safe only behind rules, once what the node was found as is recorded.

        Where services are no part of this run, what guards localhost is made alone.
        """
        if not self.settings.localhost_node_ports or not (
            "node" in self.parts or sysctls.is_recorded(sysctls.ROUTE_LOCALNET)
        ):
            return
        plan, now = self._observe_sysctls()
        if plan.late and ("proxy" in self.parts or self._guard_loopback("present")):
            self._do(sysctls.value_change("sysctl", plan.late, now))

    def _close_loopback(self) -> None:
        """Give back, while the rules stand, what is safe only behind them."""
        if "node" not in self.parts:
            return
        plan, now = self._observe_sysctls()
        self._do(sysctls.value_change("sysctl", plan.closing, now))
        if plan.closing and "proxy" not in self.parts:
            self._guard_loopback("absent")

    def _guard_loopback(self, state: str) -> bool:
        """Make what guards localhost beside the services that there are, or remove it where there are none.

        Return False where that has to wait for a run of the services, which changes their dataplane.
        """
        if self.missing:
            return True
        request = Request(state, [], False, self.settings.dataplane)
        asked = {**self.settings.node, "localhost_node_ports": state == "present"}
        try:
            done = converge_services(self.module, request, asked, {}, opens_localhost=True).result
        except InvalidServices:
            return False
        if done["changed"]:
            self.changes.append(Change("", done["diff"]["before"], done["diff"]["after"]))
        return True

    def _leave_node(self) -> None:
        """Give back what the node was found as."""
        if "node" not in self.parts:
            return
        self._do(managers.manager_change(self.settings))
        plan, now = self._observe_sysctls()
        self._do(sysctls.value_change("sysctl", plan.give_back, now))
        self._do(sysctls.file_change(plan), kernel_modules.file_change({}, self.kernel))

    def _bridges(self) -> None:
        if "bridge" not in self.parts:
            return
        for name in bridges.unnamable(self.settings, self.local):
            self.module.warn(f"bridge {name} is left alone: rules can name letters, digits and _.:@- only")
        wanted = bridges.wanted_bridges(self.settings, self.local)
        plan = bridges.plan_modes(bridges.policy_of(wanted), bridges.read_record(), self.links)
        self._do(bridges.mode_change("bridges", plan.end, False), bridges.record_change(plan))
        self._do(bridges.mode_change("bridges", plan.begin, True))
        self._role_rules(RoleRules("bridge", [bridges.chain_request(self.settings, wanted)], bridge_tables(wanted)))
        self._do(bridges.boot_files(plan))
        at_boot = [bridges.unit()] if bridges.is_hairpin_wanted(plan) else []
        self._do(units.plan_units("units", at_boot, {bridges.UNIT: "multi-user.target"}, self.runner))

    def _backends(self) -> None:
        if "backend" in self.parts:
            addresses = [ip.canonical_address(one) for one in self.needs["backend_addresses"]]
            chains = list(backend_rules.chain_requests(self.settings, addresses))
            self._role_rules(RoleRules("backend", chains, backend_tables(self.settings, addresses)))

    def _overlay(self) -> None:
        """Ways to the backends of other nodes."""
        if self.overlay is None:
            return
        strays = overlay.stray_backends(self.overlay, backends_by_node(self.services))
        for warning in [*self.overlay.warnings, *strays]:
            self.module.warn(printable(warning))
        self._do(managers.overlay_change(self.settings), overlay.change_of(self.overlay))
        self.boot_parts["overlay"] = overlay_part(self.overlay.wanted)

    def _role_rules(self, rules: RoleRules) -> None:
        writer = RuleWriter(self.module, self.in_iptables)
        self.boot_parts[rules.role] = rules.boot_part(self.in_iptables)
        for change in writer.predict(rules) if self.missing else writer.changes(rules):
            self._do(change)

    def _proxy(self) -> None:
        if "proxy" not in self.parts:
            return
        settings = self.settings
        listed = drained_after(self.listed, self.drain, settings.is_present)
        self._do(drained_change(listed))
        drained = self._drained()
        services: list[Any] = []
        payload: Mapping[str, str] = {}
        if drained:
            services = without_drained(self.services, drained)
        elif settings.is_present:
            payload = self.given.payload._asdict()
        exclusive = settings.exclusive or not settings.is_present
        request = Request(settings.state, services, exclusive, settings.dataplane)
        if self.missing:
            converged = self._predict_services()
        else:
            converged = converge_services(self.module, request, settings.node, payload, "node" in self.parts)
        done = converged.result
        if done["changed"]:
            self.changes.insert(0, Change("services", "", lines(self._service_changes(drained))))
            self.changes.append(Change("", done["diff"]["before"], done["diff"]["after"]))
        self.result.update(
            {key: done[key] for key in ("added", "updated", "removed", "conntrack_deleted", "unhealthy")}
        )
        self._tell_drained(drained)
        if done["unhealthy"]:
            self.module.warn(f"By health checks: {'; '.join(done['unhealthy'])}")
        given = with_others(self.given, self.held_given)
        checks = ask_for_checks(self.services if given is self.given else given.services)
        self.boot_parts["services"] = (
            services_part(given, drained, listed, self.node, self.kept.program, converged.boot_state, checks)
            if settings.is_present
            else None
        )

    def _drained(self) -> list[str]:
        """Return the backends that are drained behind the run."""
        if not self.settings.is_present:
            return []
        return list(dict.fromkeys([*self.settings.drained, *drained_after(self.listed, self.drain, True)]))

    def _compile_announcement(self) -> None:
        """What the node is to announce, compiled and validated."""
        settings = self.settings
        if "ip" in self.missing or not self.announcing.is_concerned(settings):
            return
        given = with_others(self.given, self.held_given).services if settings.is_present else []
        check = registry.load(settings.dataplane).problems
        self.announcing.compile(parse_services(without_drained(given, self._drained()), self.node, check), self.node)

    def _announce(self) -> None:
        """Addresses of services to the network outside, once the node has the services."""
        self._do(*self.announcing.changes(self.settings.is_present))
        self.result.update(self.announcing.told())

    def _service_changes(self, drained: Sequence[str]) -> list[str]:
        """Return the lines that say what becomes of services, against what the node was last given."""
        held = self.held_given
        after = without_drained(self.services, drained) if self.settings.is_present else []
        if held is None:
            return describe_changes([], after, self.node)
        listed = self.kept.asked.get("services", {}).get("drained") or ()
        before = without_drained(held.services, [*(held.settings.get("drained") or ()), *listed])
        names = {one["name"] for one in after}
        if self.settings.is_present and not self.settings.exclusive:
            before = [one for one in before if one["name"] in names]
        return describe_changes(before, after, self.node)

    def _predict_services(self) -> Converged:
        """Return what becomes of services on a host that has none, for want of the tools that read it."""
        options = {
            "node": {**self.settings.node, "addresses": list(self.node.addresses)},
            "dataplane": self.settings.dataplane,
        }
        from .._dataplane.offline import render_services  # what a run needs hardly ever is compiled only then

        text = render_services(self.services, options)
        names = sorted(one["name"] for one in self.services)
        diff = {"before": "", "after": text}
        lists = {"added": names, "updated": [], "removed": []}
        rest = {"conntrack_deleted": 0, "unhealthy": []}
        return Converged({"changed": bool(text), "diff": diff, **lists, **rest}, lambda: None)

    def _tell_drained(self, drained: Sequence[str]) -> None:
        self.result["drained"] = list(drained)
        if drained:
            self.module.warn(f"Drained, so that they take no new connections: {', '.join(map(to_line, drained))}")
        if self.drain.backend:
            self.result["endpoints"] = find_endpoints(self.services, [self.drain.backend])
            if self.given != self.asked:
                self.module.warn(
                    "the inventory asks for other services or settings than this node was last given: only the backend "
                    "was changed; site.yml does the rest"
                )
        if self.module.params["generation"] is not None and self.given != self.asked:
            self.module.warn(
                "the inventory asks for other services or settings than this generation: site.yml brings them"
            )

    def _save(self) -> None:
        """Keep what the parts have set for the next boot, and what was asked for."""
        if not self.boot_parts:
            return
        settings = BootSettings(self.settings.save_rules, self.settings.reapply)
        changes = plan_boot(self.boot_parts, settings, self.kept, self.runner)
        warning = without_systemd(changes) if self.settings.save_rules else None
        for line in [*([warning] if warning else []), *self._without_checker()]:
            self.module.warn(line)
        self._do(*changes)

    def _without_checker(self) -> list[str]:
        part = self.boot_parts.get("services")
        if part is None or units.has_systemd() or not part.asked.get("checks"):
            return []
        return ["health_check of services: without systemd nothing checks their backends, and all are used"]

    def _told(self) -> dict[str, Any]:
        return {"changed": bool(self.changes), "diff": merge_diffs(self.changes), **self.result}


def _refuse_wrong_networks(variable: str, networks: Sequence[str]) -> None:
    for index, network in enumerate(networks):
        try:
            ip.canonical_network(network)
        except ValueError:
            allowed = "must be a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64"
            raise NodeError(f"{variable}[{index}] is {quoted(network)}: {allowed}") from None
