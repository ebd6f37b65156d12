# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs of vip_service of which the warnings matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from network import Network, backends, vip


def web(family: str, *names: str, **options: Any) -> dict[str, Any]:
    return {"name": "web", "vip": vip(1, family), "port": 80, "backends": backends(*names, family=family), **options}


def warnings_of(network: Network, *services: Mapping[str, Any], **how: Any) -> list[str]:
    """Of a run, and the same of the check before it and of a second run."""
    predicted, first, second = (network.apply(services, check=check, **how) for check in (True, False, False))
    assert not first.get("failed"), first
    assert texts(predicted) == texts(first) == texts(second)
    assert not second["changed"]
    return texts(first)


def texts(result: Mapping[str, Any]) -> list[str]:
    """The warnings of a module's result, as ansible-core 2.19 and newer wraps them."""
    return [one["event"]["msg"] for one in result.get("warnings", ())]


def answers(network: Network, source: str, address: str, port: int = 80) -> bool:
    return network.ask(source, address, port, timeout=3.0).answered == 1
