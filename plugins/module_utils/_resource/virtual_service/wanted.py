# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One virtual service of IPVS as it is to be: what is asked for, set against what the kernel holds. Pure."""

from __future__ import annotations

from typing import Any

from ..._model import addresses as ip
from ..._model.service import FORWARD_METHODS
from ..._objects.conntrack import Endpoint
from ..._objects.ipvs import (
    HOST_LENGTH,
    SCHEDULER_FLAGS,
    Destination,
    HeldService,
    ServiceKey,
    VirtualService,
    service_name,
)
from .request import DestinationRequest, InvalidVirtualServiceError, ServiceRequest

DEFAULT_SCHEDULER = "wlc"
"""As of ipvsadm(8)."""
_SAME_PORT = ("direct", "tunnel")


def wanted_service(request: ServiceRequest, held: HeldService | None) -> HeldService | None:
    """The virtual service as it is to be, given the one that is there; None where there is to be none.

    Raises InvalidVirtualServiceError for what does not go together.
    """
    problems: list[str] = []
    wanted = _wanted_present(request, held, problems) if request.present else _wanted_absent(request, held, problems)
    if problems:
        raise InvalidVirtualServiceError([f"virtual service {service_name(request.key)}: {one}" for one in problems])
    return wanted


def _wanted_absent(request: ServiceRequest, held: HeldService | None, problems: list[str]) -> HeldService | None:
    """Without destinations given the whole goes."""
    if request.destinations is None:
        return None
    going = _endpoints(request, problems)
    if held is None:
        return None
    return held._replace(destinations={at: one for at, one in held.destinations.items() if at not in going})


def _wanted_present(request: ServiceRequest, held: HeldService | None, problems: list[str]) -> HeldService:
    service = _wanted_settings(request, held.service if held else None)
    problems += _setting_problems(request, service)
    have = held.destinations if held else {}
    given = {at: _wanted_destination(at, one, have.get(at)) for at, one in _endpoints(request, problems).items()}
    for at, destination in given.items():
        problems += [
            f"destination {ip.endpoint(*at)}: {one}" for one in _destination_problems(request.key, destination)
        ]
    return HeldService(service, given if request.exclusive else {**have, **given})


def _endpoints(request: ServiceRequest, problems: list[str]) -> dict[Endpoint, DestinationRequest]:
    """The destinations that are given, by their address and port; without a port it is the virtual service's."""
    found: dict[Endpoint, DestinationRequest] = {}
    for one in request.destinations or ():
        at = (one.address, one.port or request.key.port)
        if at in found:
            problems.append(f"destinations has {ip.endpoint(*at)} twice: must be given once")
        found[at] = one
    return found


def _wanted_settings(request: ServiceRequest, held: VirtualService | None) -> VirtualService:
    """Flags of one scheduler mean nothing to another, a netmask and an engine nothing without persistence."""
    base = held or VirtualService(request.key, DEFAULT_SCHEDULER, (), 0, HOST_LENGTH[request.key.family], False)
    scheduler = request.scheduler or base.scheduler
    kept = base.scheduler_flags if scheduler == base.scheduler else ()
    timeout = _either(request.persistence_timeout, base.persistence_timeout)
    return base._replace(
        scheduler=scheduler,
        scheduler_flags=_either(request.scheduler_flags, kept),
        persistence_timeout=timeout,
        netmask=_either(request.netmask, base.netmask) if timeout else HOST_LENGTH[request.key.family],
        one_packet=_either(request.one_packet, base.one_packet),
        persistence_engine=base.persistence_engine if timeout else "",
    )


def _setting_problems(request: ServiceRequest, service: VirtualService) -> list[str]:
    problems = []
    allowed = SCHEDULER_FLAGS.get(service.scheduler, ())
    wrong = [flag for flag in request.scheduler_flags or () if flag not in allowed]
    if wrong:
        problems.append(
            f"scheduler_flags has {' and '.join(wrong)}: must be {' or '.join(allowed) or 'empty'} with scheduler {service.scheduler}"
        )
    if request.netmask is not None and not service.persistence_timeout:
        problems.append(f"netmask is {request.netmask}: must be left out without persistence_timeout")
    if request.key.protocol and not request.key.port and not service.persistence_timeout:
        problems.append("port is 0: must be from 1 to 65535 without persistence_timeout")
    return problems


def _wanted_destination(at: Endpoint, given: DestinationRequest, held: Destination | None) -> Destination:
    base = held or Destination(*at, FORWARD_METHODS[0], 1)
    method = given.forward_method or base.forward_method
    return Destination(
        *at,
        method,
        _either(given.weight, base.weight),
        _either(given.upper_threshold, base.upper_threshold),
        _either(given.lower_threshold, base.lower_threshold),
        base.tunnel if method == "tunnel" else (0, 0, 0),
    )


def _destination_problems(key: ServiceKey, one: Destination) -> list[str]:
    """What the kernel or ipvsadm(8) would refuse."""
    problems = []
    if one.forward_method in _SAME_PORT and one.port != key.port:
        port = f"{key.port}, the virtual service's own," if key.protocol else "left out"
        problems.append(
            f"port is {one.port}: must be {port} with forward_method {one.forward_method}, which changes no port"
        )
    if one.forward_method != "tunnel" and ip.family_of(one.address) != key.family:
        problems.append(
            f"forward_method is {one.forward_method}: must be tunnel for a destination of another address family"
        )
    if one.lower_threshold > one.upper_threshold:
        problems.append(
            f"lower_threshold is {one.lower_threshold}: must be at most upper_threshold, which is {one.upper_threshold}"
        )
    return problems


def _either(given: Any, kept: Any) -> Any:
    return kept if given is None else given
