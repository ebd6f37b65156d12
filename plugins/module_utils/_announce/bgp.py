# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of BIRD 2 for the addresses of services: tables, static routes and sessions of our own. Pure.

Nothing of it meets what else is in the daemon's configuration: no route is learned, and none goes into the kernel.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from .._model import addresses as ip
from .settings import Announcement, Neighbor

GRACEFUL_SHUTDOWN = "(65535, 0)"
"""The community by which routers prefer every other way (RFC 8326)."""
_HEAD = "# Role layer4.service_proxy.announce writes this file from the services of the inventory, and removes it.\n"
_INTERVAL = ("min rx interval 300 ms;", "min tx interval 300 ms;", "multiplier 3;")
_HAS_BFD = re.compile(r"^\s*protocol\s+bfd\b", re.MULTILINE)
_NAME = "l4_service_proxy"


def bird_text(plan: Announcement, addresses: Sequence[str], shutting_down: bool, own_bfd: bool) -> str:
    """Return the text of our file of BIRD.

    addresses: to be announced; shutting_down: they are, as what routers are to leave; own_bfd: whether the daemon has no BFD otherwise.
    """
    families = [family for family in ip.FAMILIES if any(one.family == family for one in plan.neighbors)]
    parts = [_HEAD]
    for family in families:
        parts.append(f"\n{family} table {_table(family)};\n")
        parts.append(_static(family, [one for one in addresses if ip.family_of(one) == family]))
    if own_bfd and any(one.bfd for one in plan.neighbors):
        parts.append(f"\nprotocol bfd {_NAME}_bfd {{\n}}\n")
    parts += [_session(one, plan, shutting_down) for one in plan.neighbors]
    return "".join(parts)


def has_bfd(text: str) -> bool:
    """Return whether a configuration of BIRD has a protocol for BFD."""
    return bool(_HAS_BFD.search(text))


def router_id(plan: Announcement) -> str:
    """Return the node's IPv4 address, or else a number in that form made of its name, for a node that has none."""
    number = int.from_bytes(hashlib.sha256(plan.own.name.encode()).digest()[:4], "big") | 1
    return plan.own.addresses.get(ip.IPV4) or ip.from_number(number, ip.IPV4)


def _table(family: str) -> str:
    return f"{_NAME}_{family}"


def _static(family: str, addresses: Sequence[str]) -> str:
    routes = "".join(f"    route {ip.host_network(one)} blackhole;\n" for one in addresses)
    return f"\nprotocol static {_NAME}_static_{family} {{\n    {family} {{ table {_table(family)}; }};\n{routes}}}\n"


def _session(neighbor: Neighbor, plan: Announcement, shutting_down: bool) -> str:
    own = plan.own.addresses.get(neighbor.family)
    bfd = ["bfd {", *(f"    {one}" for one in _INTERVAL), "};"] if neighbor.bfd else []
    leave = [f"        bgp_community.add({GRACEFUL_SHUTDOWN});"] if shutting_down else []
    texts = [
        *([f"router id {plan.own.addresses[ip.IPV4]};"] if ip.IPV4 in plan.own.addresses else []),
        f"local {own} as {plan.asn};" if own else f"local as {plan.asn};",
        f"neighbor {neighbor.address} as {neighbor.asn};",
        "graceful restart off;",
        *bfd,
        f"{neighbor.family} {{",
        f"    table {_table(neighbor.family)};",
        "    import none;",
        "    export filter {",
        *leave,
        "        accept;",
        "    };",
        "};",
    ]
    inner = "".join(f"    {text}\n" for text in texts)
    return f"\nprotocol bgp {_name(neighbor)} {{\n{inner}}}\n"


def _name(neighbor: Neighbor) -> str:
    """By the address, so that a session stays when the list has another order."""
    return f"{_NAME}_{re.sub('[.:]', '_', neighbor.address)}"
