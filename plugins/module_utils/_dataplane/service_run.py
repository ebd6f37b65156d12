# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The run of a node's services, for the modules that have one."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from .._kernel.files import FileError
from .._kernel.link import LinkError, own_addresses
from .._kernel.process import ModuleRunner
from .._kernel.run_lock import LockTimeout
from .._model.payload import PackedServices, Payload
from .._model.request import Request
from .._model.service import Node, parse_node
from .._objects.boot import BootState
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
    """As `NodeRun.boot_state`."""


def node_of(module: AnsibleModule, settings: Mapping[str, Any]) -> Node:
    """Return the settings of the node, its name and addresses found where they are not given. Raises InvalidServices."""
    given = {key: value for key, value in settings.items() if value is not None}
    given.setdefault("name", platform.node())
    if "addresses" not in given:
        given["addresses"] = own_addresses(ModuleRunner(module))
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
    run = plan_run(request, node_of(module, settings), ModuleHost(module))
    run.opens_localhost = opens_localhost
    for warning in run.warnings:
        module.warn(warning)
    if not module.check_mode:
        run.apply()
    result = {
        "changed": run.changed,
        "diff": run.diff,
        "conntrack_deleted": run.clean_up(),
        **run.summary._asdict(),
    }
    return Converged(result, run.boot_state)
