# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of one virtual service of IPVS: the options of a task, parsed and validated. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._model import addresses as ip
from ..._model.fields import (
    Field,
    Fields,
    Parser,
    Problem,
    boolean,
    choice,
    integer,
    listed,
    parse_fields,
    parsed,
    quoted,
)
from ..._model.messages import messages
from ..._model.service import FORWARD_METHODS, PROTOCOLS, SCHEDULERS
from ..._objects.ipvs import SCHEDULER_FLAGS, ServiceKey, service_name

FLAGS = tuple(flag for flags in SCHEDULER_FLAGS.values() for flag in flags)
_MAX_TIMEOUT = 31 * 86400
"""The longest persistence that ipvsadm(8) takes."""
_MAX_THRESHOLD = (1 << 31) - 1


class InvalidVirtualServiceError(ValueError):
    """A request is refused: one line for each error."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(messages(problems))


class DestinationRequest(NamedTuple):
    """A destination as given. What is None was not."""

    address: str
    port: int | None
    forward_method: str | None
    weight: int | None
    upper_threshold: int | None
    lower_threshold: int | None


class ServiceRequest(NamedTuple):
    """The options of a task. What is None was not given. drain_timeout: seconds."""

    key: ServiceKey
    present: bool
    scheduler: str | None
    scheduler_flags: tuple[str, ...] | None
    persistence_timeout: int | None
    netmask: int | None
    one_packet: bool | None
    destinations: tuple[DestinationRequest, ...] | None
    exclusive: bool
    drain_timeout: int


def _address(value: Any) -> str:
    try:
        return ip.canonical_address(value)
    except (TypeError, ValueError):
        raise Problem("an IPv4 or IPv6 address") from None


def _host_address(value: Any) -> str:
    """What the kernel takes for a destination (``ip_vs_new_dest``)."""
    address = _address(value)
    kind = ip.unfit_for_service(address)
    if kind in ("", "a loopback address") or (kind == "a link-local address" and ip.family_of(address) == ip.IPV4):
        return address
    raise Problem(f"an address of a host, which this is not: it is {kind}")


def _netmask(family: str) -> Parser:
    """A prefix length, or of IPv4 a mask in dotted quads."""
    low, high = (0, 32) if family == ip.IPV4 else (1, 128)
    length = integer(low, high)

    def parse(value: Any) -> int:
        if family == ip.IPV4 and isinstance(value, str) and value.count(".") == 3:
            return _length_of(value)
        try:
            return length(value)
        except Problem:
            dotted = ", or a mask such as 255.255.255.0" if family == ip.IPV4 else ""
            raise Problem(f"a prefix length from {low} to {high}{dotted}") from None

    return parse


def _length_of(mask: str) -> int:
    """Of a mask in dotted quads; those of ``ipaddress`` could be host masks too."""
    try:
        bits = bin(int(ipaddress.IPv4Address(mask)))[2:]
    except ValueError:
        raise Problem("a mask such as 255.255.255.0, or a prefix length from 0 to 32") from None
    if "01" in bits or len(bits) not in (1, 32) or bits == "1":
        raise Problem("a mask with all its ones at the front, such as 255.255.255.0")
    return bits.count("1")


_KEY_FIELDS: Mapping[str, Field] = {
    "address": Field(_address, None),
    "port": Field(integer(0, 65535), None),
    "protocol": Field(choice(*PROTOCOLS), None),
    "fwmark": Field(integer(1, 0xFFFFFFFF), None),
    "family": Field(choice(*ip.FAMILIES), None),
}
_DESTINATION_FIELDS = Fields(
    {
        "address": Field(_host_address),
        "port": Field(integer(0, 65535), None),
        "forward_method": Field(choice(*FORWARD_METHODS), None),
        "weight": Field(integer(0, 65535), None),
        "upper_threshold": Field(integer(0, _MAX_THRESHOLD), None),
        "lower_threshold": Field(integer(0, _MAX_THRESHOLD), None),
    }
)


def _setting_fields(family: str) -> dict[str, Field]:
    return {
        "scheduler": Field(choice(*SCHEDULERS), None),
        "scheduler_flags": Field(listed(choice(*FLAGS)), None),
        "persistence_timeout": Field(integer(0, _MAX_TIMEOUT), None),
        "netmask": Field(_netmask(family), None),
        "one_packet": Field(boolean, None),
        "exclusive": Field(boolean, False),
        "drain_timeout": Field(integer(0, _MAX_TIMEOUT), 0),
    }


def parse_request(params: Mapping[str, Any]) -> ServiceRequest:
    """From a module's parameters. Raises InvalidVirtualServiceError."""
    problems: list[str] = []
    key = _parse_key({name: params[name] for name in _KEY_FIELDS}, problems)
    owner = "virtual service" + (" " + service_name(key) if key else "")
    fields = _setting_fields(key.family if key else _likely_family(params))
    settings = parse_fields(owner, {name: params[name] for name in fields}, fields, problems)
    destinations = _parse_destinations(owner, params["destinations"], problems)
    present = params["state"] == "present"
    problems += [f"{owner}: {problem}" for problem in _exclusive_problems(params, present)]
    if key and params["one_packet"] and key.protocol not in ("udp", ""):
        problems.append(
            f"{owner}: one_packet is true: must be false with protocol {key.protocol}: only udp and fwmark have it"
        )
    if problems or key is None:
        raise InvalidVirtualServiceError(problems)
    if settings["scheduler_flags"] is not None:
        settings["scheduler_flags"] = tuple(sorted(settings["scheduler_flags"]))
    return ServiceRequest(key=key, present=present, destinations=destinations, **settings)


def _likely_family(params: Mapping[str, Any]) -> str:
    """Of a virtual service whose own address or mark is wrong."""
    return ip.IPV6 if params["family"] == ip.IPV6 or ":" in str(params["address"]) else ip.IPV4


def _exclusive_problems(params: Mapping[str, Any], present: bool) -> list[str]:
    problems = []
    if params["exclusive"] and not present:
        problems.append(
            "exclusive is true: must be false with state absent, which removes the destinations that are given"
        )
    if params["exclusive"] and present and params["destinations"] is None:
        problems.append("exclusive is true: must be given together with destinations; an empty list leaves none")
    return problems


def _parse_key(given: Mapping[str, Any], problems: list[str]) -> ServiceKey | None:
    """None when something is wrong with it."""
    found: list[str] = []
    values = parse_fields("virtual service", given, _KEY_FIELDS, found)
    if (given["address"] is None) == (given["fwmark"] is None):
        found.append(
            f"virtual service: address is {quoted(given['address'])} and fwmark is {quoted(given['fwmark'])}: "
            "must be one of both, and the other left out"
        )
    elif given["fwmark"] is not None:
        found += [
            _excess(name, given[name], "fwmark, which takes packets of all ports")
            for name in ("port", "protocol")
            if given[name] is not None
        ]
    elif given["port"] is None:
        found.append("virtual service: port is missing: must be an integer from 0 to 65535")
    problems += found
    if found:
        return None
    if values["fwmark"] is not None:
        return ServiceKey(values["family"] or ip.IPV4, "", "", 0, values["fwmark"])
    family = ip.family_of(values["address"])
    if values["family"] not in (None, family):
        problems.append(
            f"virtual service: family is {quoted(values['family'])}: must be {family}, the address's, or left out"
        )
        return None
    return ServiceKey(family, values["protocol"] or "tcp", values["address"], values["port"], 0)


def _excess(name: str, value: Any, other: str) -> str:
    return f"virtual service: {name} is {quoted(value)}: must be left out with {other}"


def _parse_destinations(
    owner: str, given: Sequence[Any] | None, problems: list[str]
) -> tuple[DestinationRequest, ...] | None:
    if given is None:
        return None
    found = []
    for index, raw in enumerate(given):
        values = parsed(raw, _DESTINATION_FIELDS)
        if values is None:
            values = parse_fields(f"{owner}: destinations[{index}]", raw, _DESTINATION_FIELDS, problems)
        if len(values) == len(_DESTINATION_FIELDS):
            found.append(DestinationRequest(**values))
    return tuple(found)
