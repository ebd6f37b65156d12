# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part ``node`` of a run: kernel modules, sysctls and network managers, and what is safe only behind rules."""

from __future__ import annotations

from .._dataplane.service_run import converge_services
from .._model.request import Request
from .._model.service import InvalidServices
from . import kernel_modules, managers, sysctls
from .change import Change
from .run_state import RunState


def prepare_node(run: RunState) -> None:
    """Kernel modules, sysctls and network managers, before anything needs them."""
    if "node" not in run.parts:
        return
    run.do(kernel_modules.load_change(run.kernel, run.runner))
    run.do(kernel_modules.file_change(run.modules, run.kernel))
    plan, now = _observe_sysctls(run)
    run.do(sysctls.value_change("sysctl", plan.give_back, now))
    # Before they are set, so that a run that is killed does not forget what it found.
    run.do(sysctls.file_change(plan), sysctls.value_change("sysctl", plan.early, now))
    run.do(managers.manager_change(run.settings))


def leave_node(run: RunState) -> None:
    """Give back what the node was found as."""
    if "node" not in run.parts:
        return
    run.do(managers.manager_change(run.settings))
    plan, now = _observe_sysctls(run)
    run.do(sysctls.value_change("sysctl", plan.give_back, now))
    run.do(sysctls.file_change(plan), kernel_modules.file_change({}, run.kernel))


def open_loopback(run: RunState) -> None:
    """Set what is safe only behind rules, once what the node was found as is recorded.

    Where services are no part of this run, what guards localhost is made alone.
    """
    if not run.settings.localhost_node_ports or not (
        "node" in run.parts or sysctls.is_recorded(sysctls.ROUTE_LOCALNET)
    ):
        return
    plan, now = _observe_sysctls(run)
    if plan.late and ("proxy" in run.parts or _guard_loopback(run, "present")):
        run.do(sysctls.value_change("sysctl", plan.late, now))


def close_loopback(run: RunState) -> None:
    """Give back, while the rules stand, what is safe only behind them."""
    if "node" not in run.parts:
        return
    plan, now = _observe_sysctls(run)
    run.do(sysctls.value_change("sysctl", plan.closing, now))
    if plan.closing and "proxy" not in run.parts:
        _guard_loopback(run, "absent")


def _guard_loopback(run: RunState, state: str) -> bool:
    """Make what guards localhost beside the services that there are, or remove it where there are none.

    Return False where that has to wait for a run of the services, which changes their dataplane.
    """
    if run.missing:
        return True
    request = Request(state, [], False, run.settings.dataplane)
    asked = {**run.settings.node, "localhost_node_ports": state == "present"}
    try:
        done = converge_services(run.module, request, asked, {}, opens_localhost=True).result
    except InvalidServices:
        return False
    if done["changed"]:
        run.changes.append(Change("", done["diff"]["before"], done["diff"]["after"]))
    return True


def _observe_sysctls(run: RunState) -> tuple[sysctls.SysctlPlan, sysctls.Values]:
    wanted = sysctls.wanted_sysctls(
        run.settings,
        ipv6=run.needs["ipv6"],
        direct="direct" in run.needs["forward_methods"],
        bridges=run.has_bridges(),
    )
    return sysctls.observe(wanted, run.settings.is_present)
