# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's links and their addresses, as the kernel has them now."""

from __future__ import annotations

import json
import re
from typing import Any

from .._model.addresses import IPV4, IPV6, network_of
from .._objects.node_facts import OWN_DEVICES, Link
from .process import Runner

_NETFILTER = {IPV4: "nf_call_iptables", IPV6: "nf_call_ip6tables"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)
"""A name may have any character: ip(8) escapes an apostrophe, which JSON does not know, and no control character, which it wants."""

_ADDRESSES = ("address", "show")


class LinkError(Exception):
    """The addresses could not be read; the text is one line, with ip(8)'s own words."""


def own_addresses(runner: Runner) -> list[str]:
    """The node's own unicast addresses that others can use, no loopback and no link-local ones, and none of our own devices.

    Each once, though several links may have it. Raises LinkError.
    """
    found = [
        info
        for link in _show(runner, *_ADDRESSES)
        if link.get("ifname") not in OWN_DEVICES
        for info in _addresses(link)
    ]
    return list(dict.fromkeys(info["local"] for info in found if info.get("scope") in ("global", "site")))


def addresses(runner: Runner) -> dict[str, list[str]]:
    """Return the addresses of every interface. Raises LinkError."""
    return {
        link["ifname"]: [info["local"] for info in _addresses(link)]
        for link in _show(runner, *_ADDRESSES)
        if link.get("ifname")
    }


def links(runner: Runner) -> list[Link]:
    """All interfaces. Raises LinkError."""
    found = [_link(link) for link in _show(runner, "-details", "link", "show") if link.get("ifname")]
    if not any(link.kind == "bridge" for link in found):
        return found  # a device of ours may have tens of thousands of addresses, of which nobody wants to know here
    networks = {link.get("ifname"): _networks(link) for link in _show(runner, *_ADDRESSES, "type", "bridge")}
    return [link._replace(networks=networks.get(link.name, ())) for link in found]


def _show(runner: Runner, *words: str) -> list[dict[str, Any]]:
    tool = runner.find("ip")
    if tool is None:
        raise LinkError("ip (iproute2) is not installed on this host: its addresses cannot be read")
    what = "ip " + " ".join(word for word in words if not word.startswith("-"))
    code, out, err = runner.run([tool, "-json", *words])
    if code:
        raise LinkError(f"{what}: " + (" ".join(err.split()) or f"exit code {code}"))
    try:
        found: list[dict[str, Any]] = _DECODER.decode(_ESCAPE.sub(_mended, out))
    except ValueError as error:
        raise LinkError(f"{what}: printed no JSON: iproute2 of 2017 or newer is needed") from error
    return found


def _mended(escape: re.Match[str]) -> str:
    return "'" if escape[1] == "'" else escape[0]


def _addresses(link: dict[str, Any]) -> list[dict[str, Any]]:
    return [info for info in link.get("addr_info", ()) if info.get("local")]


def _networks(link: dict[str, Any]) -> tuple[str, ...]:
    return tuple(network_of(info["local"], info["prefixlen"]) for info in _addresses(link))


def _link(link: dict[str, Any]) -> Link:
    details = link.get("linkinfo", {})
    settings = details.get("info_data", {})
    return Link(
        link["ifname"],
        details.get("info_kind", ""),
        link.get("master", ""),
        (),
        frozenset(family for family, name in _NETFILTER.items() if settings.get(name)),
    )
