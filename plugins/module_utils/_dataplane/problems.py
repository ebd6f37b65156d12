# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What most dataplanes cannot do of what users may ask for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .._model.fields import quoted
from .._model.service import DEFAULT_FORWARD_METHOD, Service


def ipvs_keys(services: Sequence[Service], dataplane: str) -> list[str]:
    """Return one line for each key of a service that only ipvs can do. dataplane: the one that refuses it."""
    problems = []
    for service in services:
        start = f"service {quoted(service.name)}: "
        if service.scheduler is not None:
            problems.append(
                f"{start}scheduler is {quoted(service.scheduler)}: must be null with dataplane {dataplane}, "
                "which chooses at random by weight (schedulers need ipvs)"
            )
        if service.forward_method != DEFAULT_FORWARD_METHOD:
            problems.append(
                f"{start}forward_method is {quoted(service.forward_method)}: must be {DEFAULT_FORWARD_METHOD} "
                f"with dataplane {dataplane} (direct and tunnel need ipvs)"
            )
    return problems
