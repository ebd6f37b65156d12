# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The four steps of a run of a node's services, for the modules that have them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._kernel.link import own_addresses
from .._kernel.process import ModuleRunner
from .._model.request import Request
from .._model.service import Node, parse_node, refuse_unsupported
from .._node_checks.facts import chains_of_others, warnings
from .facilities import facilities
from .iptables.cache_scope import request_digest, services_of
from .iptables.host import Change, nothing_to_do
from .ipvs.compile import DEVICE
from .run import AnyChange, apply, has_remains, plan_run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def node_of(module: AnsibleModule, settings: Mapping[str, Any]) -> Node:
    """Return the settings of the node, its name and addresses found where they are not given. Raises InvalidServices."""
    given = {key: value for key, value in settings.items() if value is not None}
    given.setdefault("name", platform.node())
    if "addresses" not in given:
        given["addresses"] = own_addresses(ModuleRunner(module), DEVICE)
    return parse_node(given)


def converge_services(
    module: AnsibleModule, request: Request, settings: Mapping[str, Any], payload: Mapping[str, str]
) -> dict[str, Any]:
    """Make the node's services as asked for, unless in check mode, and return the result of the module.

    payload: the services as one text (`_model.payload`), empty where the request has them; without its body it may not be enough,
    which ``services_needed`` in the result tells. Raises InvalidServices, and what a facility says.
    """
    refuse_unsupported(request.dataplane)
    node = node_of(module, settings)
    has = facilities(module, node.chain_prefix, request_digest(request, dict(payload)))
    change: AnyChange | None = None if has_remains(node, has) else nothing_to_do(node, request.dataplane, has.kernel)
    if change is None and payload and "body" not in payload:
        return {"changed": False, "services_needed": True}
    if change is None:
        change = plan_run(request._replace(services=services_of(request, payload)), node, has)
    records = has.kernel.records
    if change.services:
        chains = records.chains_of_others(chains_of_others) if records else chains_of_others()
        for warning in warnings(change.services, request.dataplane, node, has.tables, ModuleRunner(module), chains):
            module.warn(warning)
    if not module.check_mode:
        apply(change, has)
    deleted = change.reconciliation.run(delete=not module.check_mode)
    return {
        "changed": change.changed,
        "diff": change.diff,
        "conntrack_deleted": deleted,
        "rules_state": records.state if records and isinstance(change, Change) else "",
        **change.summary._asdict(),
    }
