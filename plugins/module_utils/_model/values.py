# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of settings and services that are more than text or number: each parser returns the value, or raises Problem. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from . import addresses as ip
from .fields import Problem, one_of_type


class Mark(NamedTuple):
    """Bits of the packet mark: ``value`` inside ``mask``."""

    value: int
    mask: int

    def __str__(self) -> str:
        return "0x{:x}/0x{:x}".format(*self)


_text = one_of_type(str)


def address(value: Any) -> str:
    try:
        return ip.canonical_address(_text(value))
    except ValueError:
        raise Problem("an IPv4 or IPv6 address" + _address_hint(value)) from None


def _address_hint(value: Any) -> str:
    """What helps with what is often written in place of an address."""
    address, slash, dummy = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and ip.is_address(address):
        return ", without a prefix length"
    return (
        ": names are not resolved (the filter backends makes backends of hosts)"
        if _HOST_NAME.fullmatch(address)
        else ""
    )


_HOST_NAME = re.compile(r"(?=.*[a-z])[a-z0-9_]([a-z0-9_.-]{0,250})", re.IGNORECASE)


def service_address(value: Any) -> str:
    if ip.is_plain(value):
        return str(value)
    found = address(value)
    unfit = ip.unfit_for_service(found)
    if unfit:
        raise Problem(f"a unicast address that others can reach, not {unfit}")
    return found


def network(value: Any) -> str:
    try:
        return ip.canonical_network(_text(value))
    except ValueError as error:
        hint = f" ({error})" if "may be meant" in str(error) else ""
        raise Problem("a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64" + hint) from None


def mark(value: Any) -> Mark:
    allowed = Problem("value/mask in hexadecimal, such as 0x4000/0x4000, the value not 0 and inside the mask")
    try:
        first, slash, second = str(value).partition("/")
        mark = Mark(int(first, 0), int(second if slash else first, 0))
    except ValueError:
        raise allowed from None
    if not 0 < mark.mask <= 0xFFFFFFFF or mark.value <= 0 or mark.value & ~mark.mask:
        raise allowed
    return mark
