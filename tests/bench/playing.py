# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs of ansible-playbook take: one node with many services, rule by rule instead, and a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from layouts import NODE, linear, service_apart, services, services_apart
from plays import SITE, Played, controller

_PING = {"name": "Ping", "ansible.builtin.ping": {}}
_TASK: dict[str, Any] = {
    "name": "Proxy",
    "layer4.service_proxy.vip_service": {
        "services": "{{ service_proxy_services }}",
        "exclusive": True,
        "node": {key: value for key, value in NODE.items() if key != "name"},
    },
}
_LOOP_RULES = 60


class Playing(NamedTuple):
    """Seconds of whole runs on one node. floor: loads the same variables and pings. site: by site.yml, on a node of its own."""

    services: int
    floor: float
    first: float
    one_changed: float
    nothing: float
    site_first: float
    site_one_changed: float
    site_nothing: float


class Task(NamedTuple):
    """Seconds of whole runs of a play with vip_service alone. floor: loads the same variables and pings."""

    floor: float
    first: float
    nothing: float


class Loop(NamedTuple):
    """Rules set one by one by ansible.builtin.iptables: how many, and the seconds of the run beyond one that pings."""

    rules: int
    seconds: float
    rules_per_service: int


class Fleet(NamedTuple):
    """site.yml on many nodes: whole runs; the floor pings once."""

    nodes: int
    services: int
    forks: int
    floor: Played
    first: Played
    nothing: Played


def measure_playing(count: int) -> Playing:
    """The second of two runs where nothing changes, since the first may have had modules to compile."""
    wanted = services_apart(count)
    with controller(1, _variables(wanted)) as made:
        made.run(made.play(_PING))
        floor = made.run(made.play(_PING)).seconds
        first = made.run(made.play(_TASK)).seconds
        made.run(made.play(_TASK))
        nothing = made.run(made.play(_TASK)).seconds
        wanted[count // 2] = service_apart(count // 2, backends=2)
        made.set(_variables(wanted))
        one_changed = made.run(made.play(_TASK)).seconds
    with controller(1, _variables(wanted)) as made:
        made.run(made.play(_PING))
        sites = [made.run(SITE).seconds for _again in range(3)]
        wanted[count // 2] = service_apart(count // 2, backends=3)
        made.set(_variables(wanted))
        site_one_changed = made.run(SITE).seconds
    return Playing(count, floor, first, one_changed, nothing, sites[0], site_one_changed, sites[-1])


def measure_task(count: int, dataplane: str) -> Task:
    """Of so many services in a dataplane, the modules compiled before."""
    task = {
        **_TASK,
        "layer4.service_proxy.vip_service": {**_TASK["layer4.service_proxy.vip_service"], "dataplane": dataplane},
    }
    with controller(1, _variables(services_apart(1))) as made:
        made.run(made.play(task))
    with controller(1, _variables(services_apart(count))) as made:
        made.run(made.play(_PING))
        return Task(*(made.run(made.play(one)).seconds for one in (_PING, task, task)))


def measure_loop() -> Loop:
    """The same rules as kube-proxy's list has, a task's item each; chains are made before."""
    per_service = 11
    text = linear(services(_LOOP_RULES // per_service + 1))
    chains = [line[1:].split(" ")[0] for line in text.splitlines() if line.startswith(":")]
    rules = [_as_item(line) for line in text.splitlines() if line.startswith("-A KUBE-S")][:_LOOP_RULES]
    make = {
        "ansible.builtin.iptables": {"table": "nat", "chain": "{{ item }}", "chain_management": True},
        "loop": chains,
    }
    add = {
        "ansible.builtin.iptables": {
            "table": "nat",
            "chain": "{{ item.chain }}",
            "destination": "{{ item.destination | default(omit) }}",
            "comment": "{{ item.comment }}",
            "jump": "{{ item.jump }}",
        },
        "loop": rules,
    }
    with controller(1, {}) as made:
        made.run(made.play(_PING))
        floor = made.run(made.play(_PING)).seconds
        made.run(made.play(make))
        return Loop(len(rules), made.run(made.play(add)).seconds - floor, per_service)


def _as_item(rule: str) -> dict[str, str]:
    """What matters for the time: which chain, where it leads, and that no two are equal."""
    words = rule.split(" ")
    chain, target = words[1], words[words.index("-j") + 1]
    jump = target if target.startswith("KUBE-") else "RETURN"
    found = {"chain": chain, "jump": jump, "comment": rule[-60:].replace('"', "")}
    return {**found, "destination": words[words.index("-d") + 1]} if "-d" in words else found


def measure_fleet(nodes: int, count: int, forks: int) -> Fleet:
    """A run before the one that changes nothing is the first, on nodes as they are found."""
    with controller(nodes, _variables(services_apart(count)), forks) as made:
        made.run(made.play(_PING))
        floor = made.run(made.play(_PING))
        first = made.run(SITE)
        return Fleet(nodes, count, forks, floor, first, made.run(SITE))


def _variables(wanted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "service_proxy_services": wanted,
        "service_proxy_local_cidrs": NODE["local_cidrs"],
        "service_proxy_addresses": NODE["addresses"],
    }
