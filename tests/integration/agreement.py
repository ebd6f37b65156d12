# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether what a trace found is what the semantics expect."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from semantics import Endpoint, Expected

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet, Trace

KERNEL_ROUNDING = Fraction(10, 1 << 31)


def met(found: Trace) -> tuple[str, dict[Endpoint, Fraction], dict[Endpoint, Any]]:
    """A trace in the terms of `Expected`."""
    verdicts = {packet.verdict or ("accept" if _is_led(packet) else "not_ours") for packet in found.outcomes}
    reached = {packet: chance for packet, chance in found.outcomes.items() if _is_led(packet)}
    shares: dict[Endpoint, Fraction] = {}
    for packet, chance in reached.items():
        at = (packet.destination, packet.port)
        shares[at] = shares.get(at, Fraction(0)) + chance
    assert sum(found.outcomes.values()) == 1
    return " or ".join(verdicts), shares, {(packet.destination, packet.port): packet.snat for packet in reached}


def _is_led(packet: Packet) -> bool:
    return packet.dnat or bool(packet.forwarded)


def agree(found: Trace, wanted: Expected, rounding: Fraction = KERNEL_ROUNDING) -> bool:
    verdict, shares, snat = met(found)
    if (verdict, set(shares), snat) != (wanted.verdict, set(wanted.shares), wanted.snat):
        return False
    return all(abs(share - wanted.shares[at]) < rounding for at, share in shares.items())
