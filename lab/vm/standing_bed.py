# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Beds that are left standing, for playbooks: a machine, and namespaces on the LAN of its eth1.

The namespaces of the bed NAME are NAME, which holds the LAN, and NAME-HOST for each host on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.namespaces import NETNS_DIRECTORY, Namespace, link

from .accelerator import accelerator
from .bed import BRIDGE
from .command import Hardware
from .image import image, recipe
from .lan import cable
from .machine import Machine
from .snapshot import snapshot
from .standing import directory_of, put_up, standing, take_down

WAY_IN = "ansible.json"
PORT_NAME = "machine"


def way_in(name: str) -> Path:
    """The file with the variables by which Ansible reaches the bed's machine, as JSON."""
    return directory_of(name) / WAY_IN


def put_up_bed(name: str, suite: str, hosts: Mapping[str, Sequence[str]]) -> bool:
    """Leave a bed standing with these hosts on its LAN, each with its addresses; False if it stands already.

    Where this fails, or only its namespaces are there, nothing is left of it.
    """
    if standing(name):
        return False
    take_down_bed(name)
    try:
        lan = Namespace(name).create()
        lan.add_bridge(BRIDGE)
        machine = _machine_on(lan, suite)
        for host, addresses in hosts.items():
            _plug_in(lan, host, addresses)
        way_in(name).write_text(json.dumps(dict(machine.ssh.inventory())))
    except BaseException:
        take_down_bed(name)
        raise
    return True


def _machine_on(lan: Namespace, suite: str) -> Machine:
    made, hardware = image(recipe(suite)), Hardware(accelerator())
    with cable(lan, BRIDGE, PORT_NAME) as descriptor:
        return put_up(made, hardware, snapshot(made, hardware), lan.name, descriptor)


def _plug_in(lan: Namespace, name: str, addresses: Sequence[str]) -> None:
    host = Namespace(f"{lan.name}-{name}").create()
    link(host, "eth0", lan, name)
    lan.add_ports(BRIDGE, name)
    host.add_address("eth0", *addresses)


def take_down_bed(name: str) -> bool:
    """End the bed's machine, and what runs in its namespaces, which go; False if there was nothing."""
    left = [Namespace(path.name) for path in (NETNS_DIRECTORY / name, *NETNS_DIRECTORY.glob(f"{name}-*"))]
    there = [namespace for namespace in left if namespace.exists()]
    stood = take_down(name)
    for namespace in there:
        namespace.delete()
    return stood or bool(there)
