# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of keepalived for the addresses of services: VRRP version 3 between the nodes (RFC 5798). Pure.

The addresses that any node can serve move together. One that only nodes with a backend of their own can serve moves by itself, and
each node says by a file of its own whether it can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from .._model import addresses as ip
from .addresses import Address
from .settings import Announcement

WITHDRAWN = "/var/lib/layer4-service-proxy.withdrawn"
"""Holds a number other than 0 while the node announces nothing; it outlives a boot, and nothing has to read it but keepalived."""
SWITCHES = "/run/layer4-service-proxy/announce"
"""Of files with 1 for a group of addresses that the node cannot serve, 0 for others."""
_IDS = 255
_HEAD = "# Role layer4.service_proxy.announce writes this file from the services of the inventory, and removes it.\n"
_HELD = re.compile(r"^ +([0-9a-f.:]+)/(?:32|128)$", re.MULTILINE)


class Group(NamedTuple):
    """Addresses of one family that move together."""

    name: str
    """Of the instance, and of the file that switches it."""
    family: str
    id: int
    """The virtual router's; the same number in the other family is another router."""
    addresses: Sequence[Address]

    @property
    def is_served(self) -> bool:
        return any(one.is_served for one in self.addresses)


class TooManyGroups(Exception):
    """There are more addresses of services with a local policy than virtual routers; the text is one line."""


def find_groups(found: Sequence[Address], first_id: int) -> list[Group]:
    """Return the groups. Their numbers depend on nothing but the addresses, so that all nodes have the same. Raises TooManyGroups."""
    groups = []
    for family in ip.FAMILIES:
        of_family = [one for one in found if one.family == family]
        anywhere = [one for one in of_family if not one.is_local]
        if anywhere:
            groups.append(_group(family, first_id, anywhere))
        local = [one for one in of_family if one.is_local]
        groups += [_group(family, number, [one]) for one, number in _numbered(local, first_id)]
    return groups


def _group(family: str, number: int, addresses: Sequence[Address]) -> Group:
    return Group(f"l4-{family}-{number}", family, number, addresses)


def _numbered(found: Sequence[Address], first_id: int) -> list[tuple[Address, int]]:
    """Each address with a number of its own, by a hash, so that few change theirs when others come and go."""
    if len(found) >= _IDS:
        raise TooManyGroups(
            f"{len(found)} addresses belong to services with a local policy: must be {_IDS - 1} of a family at most, since each is a "
            "virtual router of its own (service_proxy_announce bgp has no such limit)"
        )
    taken = {first_id}
    numbered = []
    for one in sorted(found, key=lambda one: (_hash(one.address), one.address)):
        number = (first_id + _hash(one.address)) % _IDS + 1
        while number in taken:
            number = number % _IDS + 1
        taken.add(number)
        numbered.append((one, number))
    return sorted(numbered)


def _hash(address: str) -> int:
    return int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "big") % _IDS


def keepalived_text(groups: Sequence[Group], plan: Announcement, interface: str) -> str:
    """Return the text of our file of keepalived."""
    tracked = [_track_file("l4-withdrawn", WITHDRAWN), *(_track_file(one.name, switch_of(one)) for one in groups)]
    return _HEAD + "".join([*tracked, *(_instance(one, plan, interface) for one in groups)])


def switch_of(group: Group) -> str:
    """Return the path of the file that switches a group."""
    return f"{SWITCHES}/{group.name}"


def switches(groups: Sequence[Group]) -> dict[str, str]:
    """Return the files that say which groups the node can serve, each with its content."""
    return {switch_of(one): "0\n" if one.is_served else "1\n" for one in groups}


def held_addresses(text: str) -> list[str]:
    """Return the addresses that keepalived may have put on an interface, by what `keepalived_text` once made."""
    return _HELD.findall(text)


def _track_file(name: str, path: str) -> str:
    return _block(f"track_file {name}", [f'file "{path}"', "weight 0"])


def _instance(group: Group, plan: Announcement, interface: str) -> str:
    # The others' advertisements name one address, so that nodes with the services of before and of now understand each other.
    first, *others = [ip.host_network(one.address) for one in group.addresses]
    return _block(
        f"vrrp_instance {group.name}",
        [
            "version 3",
            "state BACKUP",
            "nopreempt",
            f"interface {interface}",
            f"virtual_router_id {group.id}",
            f"priority {plan.priority}",
            "advert_int 1",
            f"unicast_src_ip {plan.own.addresses[group.family]}",
            *_inner("unicast_peer", plan.peers(group.family)),
            *_inner("track_file", ["l4-withdrawn", group.name]),
            *_inner("virtual_ipaddress", [first]),
            *_inner("virtual_ipaddress_excluded", others),
        ],
    )


def _inner(name: str, texts: Sequence[str]) -> list[str]:
    return [f"{name} {{", *(f"    {one}" for one in texts), "}"] if texts else []


def _block(head: str, texts: Sequence[str]) -> str:
    return "".join(f"{one}\n" for one in ["", f"{head} {{", *(f"    {text}" for text in texts), "}"])
