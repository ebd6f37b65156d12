# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The run of a node's services, for the modules that have one."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from .._health.checks import Out, without_failed
from .._health.state import out_line
from .._kernel.files import FileError
from .._kernel.link import LinkError, own_addresses
from .._kernel.process import ModuleRunner, Runner
from .._kernel.run_lock import LockTimeout
from .._model.messages import printable
from .._model.payload import PackedServices, Payload
from .._model.request import Request
from .._model.service import Node, parse_node
from .._objects.boot import BootState
from .health_record import read_failed
from .host import ModuleHost
from .run import RunError, plan_run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SERVICE_ERRORS = (FileError, LinkError, LockTimeout, RunError)
"""What a run raises beside InvalidServices; each text is one line for the user."""


class Converged(NamedTuple):
    """What has become of a node's services."""

    result: dict[str, Any]
    """Of the module."""
    boot_state: Callable[[], BootState | None]
    """As `NodeRun.boot_state`; None, too, where backends are out: after a boot all are healthy."""


def node_of(runner: Runner, settings: Mapping[str, Any]) -> Node:
    """Return the settings of the node, its name and addresses found where they are not given. Raises InvalidServices."""
    given = {key: value for key, value in settings.items() if value is not None}
    given.setdefault("name", platform.node())
    if "addresses" not in given:
        given["addresses"] = own_addresses(runner)
    return parse_node(given)


def converge_services(
    module: AnsibleModule,
    request: Request,
    settings: Mapping[str, Any],
    payload: Mapping[str, str],
    opens_localhost: bool = False,
) -> Converged:
    """Make the node's services as asked for, unless in check mode.

    payload: the services as one text (`_model.payload`), empty where the request has them. opens_localhost: as of `NodeRun`.
    Raises InvalidServices and SERVICE_ERRORS.
    """
    if payload:
        request = request._replace(
            services=PackedServices(Payload(str(payload.get("digest")), str(payload.get("body"))))
        )
    node = node_of(ModuleRunner(module), settings)
    request, out = reckon_with_checks(request, node)
    run = plan_run(request, node, ModuleHost(module))
    run.opens_localhost = opens_localhost
    for warning in run.warnings:
        module.warn(printable(warning))
    if not module.check_mode:
        run.apply()
    result = {
        "changed": run.changed,
        "diff": run.diff,
        "conntrack_deleted": run.clean_up(),
        "unhealthy": [out_line(*one) for one in out],
        **run.summary._asdict(),
    }
    return Converged(result, (lambda: None) if out else run.boot_state)


def reckon_with_checks(request: Request, node: Node) -> tuple[Request, list[tuple[Out, str]]]:
    """Return the request as health checks leave it, and the backends that are out by them, with reasons. Raises FileError."""
    failed = read_failed() if request.state == "present" else {}
    if not failed:
        return request, []
    services, out = without_failed(request.services, failed, node)
    return request._replace(services=services) if out else request, [(one, failed[one.probe]) for one in out]
