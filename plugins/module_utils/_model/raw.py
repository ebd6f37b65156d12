# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be known of services as users write them, once they have been validated, without parsing them again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import addresses as ip
from .conflicts import ADDRESS_KEYS, BackendOf


def backends_of(raw: Mapping[str, Any]) -> list[BackendOf]:
    """Return the backends of a service as users write it, also those that do not serve."""
    name, protocol, port = raw["name"], raw.get("protocol") or "tcp", raw["port"]
    return [
        BackendOf(name, protocol, _canonical(one["address"]), int(one.get("port") or port))
        for one in raw.get("backends") or ()
    ]


def own_addresses_of(raw: Mapping[str, Any]) -> Iterable[str]:
    """Return the addresses at which such a service answers."""
    given = [raw.get(key) or () for key in ADDRESS_KEYS]
    return [_canonical(one) for many in given for one in ([many] if isinstance(many, str) else many)]


def _canonical(address: str) -> str:
    """An address as parsing writes it: of IPv4 there is one spelling."""
    return ip.canonical_address(address) if ":" in address else address
