# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One virtual service of IPVS: observe, plan, apply."""

from __future__ import annotations

from ..._kernel.ipvs import Ipvs
from ..._plan.ipvs import VirtualServicePlan, plan_virtual_services
from ..._plan.ipvs_steps import virtual_steps
from ..._plan.transaction import run
from .request import ServiceRequest
from .wanted import wanted_service


def plan_virtual_service(request: ServiceRequest, ipvs: Ipvs) -> VirtualServicePlan:
    """Everything up to applying. Raises InvalidVirtualServiceError and IpvsError."""
    held = ipvs.service(request.key)
    wanted = wanted_service(request, held)
    return plan_virtual_services({request.key: wanted} if wanted else {}, {request.key: held} if held else {})


def apply_virtual_service(plan: VirtualServicePlan, request: ServiceRequest, ipvs: Ipvs) -> None:
    """All or nothing. Raises IpvsError, or UndoFailed when something could not be put back."""
    run(virtual_steps(plan, ipvs, request.drain_timeout))
