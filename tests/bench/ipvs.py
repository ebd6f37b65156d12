# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Thousands of virtual services written and read, against ipvsadm(8) doing the same in the same run.

    python tests/bench/ipvs.py [--services 10000] [--destinations 3]

Needs root and a kernel with IPVS. Every measurement of writing has a network namespace of its own. Prints one line each, with
the ratio to the tool; the exit status is 1 when a ratio is above what is allowed for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
os.environ.pop("L4_WARM", None)
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / ".cache" / "collections"), str(CHECKOUT / "tests" / "integration")]

from health import given
from layouts import NODE, service, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.services import Services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.health_record import forget_failed
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.checks import Probe
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs import Ipvs
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import canonical_address
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsChange,
    ServiceKey,
    VirtualService,
    destination_line,
    service_line,
)
from lab.namespaces import Namespace
from module_runner import run_module_ok

MOST, MOST_CHANGED, MOST_OF_ONE, MOST_OF_FLIP = 1.5, 1.6, 3.0, 0.1
"""Ratios: of most, of one changed service, of a virtual service with thousands of destinations, and of a flip of a health check."""
FLIPS = 10


def changes(services: int, destinations: int) -> Iterator[IpvsChange]:
    """Half of the virtual services in each address family."""
    for number in range(services):
        family = ("ipv4", "ipv6")[number % 2]
        address, server = {
            "ipv4": ("10.%d.%d.%d", "172.%d.%d.%d"),
            "ipv6": ("fd00::%x:%x:%x", "fd01::%x:%x:%x"),
        }[family]
        place = (number >> 16, number >> 8 & 255, number & 255)
        key = ServiceKey(family, "tcp", canonical_address(address % place), 80, 0)
        yield AddService(VirtualService(key, "wrr", (), 0, 32 if family == "ipv4" else 128, False))
        for one in range(destinations):
            at = canonical_address(server % (16 + one, *place[1:]))
            yield AddDestination(key, Destination(at, 8080, "masquerade", 1))


def text(wanted: list[IpvsChange]) -> str:
    """For ``ipvsadm --restore``."""
    lines = [
        service_line(one.service) if isinstance(one, AddService) else destination_line(one.key, one.destination)
        for one in wanted
        if isinstance(one, (AddService, AddDestination))
    ]
    return "".join(line + "\n" for line in lines)


class Cost(NamedTuple):
    """Seconds that went by, and seconds of processor time of this process and of those that it ran: what a busy machine
    does not change.
    """

    elapsed: float
    processor: float


def timed(act: Callable[[], object]) -> Cost:
    start = _now()
    act()
    return Cost(*(then - before for before, then in zip(start, _now())))


def _now() -> Cost:
    times = os.times()
    return Cost(times.elapsed, times.user + times.system + times.children_user + times.children_system)


def report(what: str, tool: Cost, ours: Cost, most: float = MOST) -> bool:
    """Print a line; whether the ratio of processor times is good enough."""
    ratio = ours.processor / tool.processor
    shown = [f"{cost.processor:.2f} s ({cost.elapsed:.2f} s elapsed)" for cost in (tool, ours)]
    print(f"{what}: ipvsadm {shown[0]}, collection {shown[1]}, ratio {ratio:.2f}", flush=True)
    return ratio <= most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10000)
    parser.add_argument("--destinations", type=int, default=3, help="of each service, at least two")
    chosen = parser.parse_args()
    wanted = list(changes(chosen.services, chosen.destinations))
    restore = text(wanted)
    with Namespace(f"l4bench{os.getpid()}a") as one, Namespace(f"l4bench{os.getpid()}b") as other:
        tool = timed(lambda: one.run("ipvsadm", "--restore", input=restore, timeout=600))
        ours = other.call(lambda: timed(lambda: apply(wanted)))
        good = report(f"write {chosen.services} x {chosen.destinations}", tool, ours)
        tool = timed(lambda: other.run("ipvsadm", "-Sn", timeout=600))
        ours = other.call(lambda: timed(read))
        good &= report(f"read {chosen.services} x {chosen.destinations}", tool, ours)
        saved = [sorted(host.run("ipvsadm", "-Sn", timeout=600).stdout.splitlines()) for host in (one, other)]
        assert saved[0] == saved[1] == sorted(restore.splitlines())
    good &= run_of_vip_service(chosen.services, chosen.destinations)
    good &= one_of_many_destinations(chosen.services)
    return 0 if good else 1


def one_of_many_destinations(count: int) -> bool:
    """A run of ipvs_service over one virtual service, when nothing is changed; whether it is fast enough."""
    at = [
        {"address": f"10.{200 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", "port": 80}
        for number in range(count)
    ]
    arguments = {"address": "10.96.0.1", "port": 80, "protocol": "tcp", "destinations": at, "exclusive": True}
    with Namespace(f"l4bench{os.getpid()}e") as host:
        run_module_ok(host, "ipvs_service", arguments, timeout=600)
        tool = timed(lambda: host.run("ipvsadm", "-Sn", timeout=600))
        ours = timed(lambda: run_module_ok(host, "ipvs_service", arguments, timeout=600))
        only = host.call(lambda: timed(read))
    report(f"read 1 x {count}", tool, only, MOST_OF_ONE)
    return report(f"ipvs_service 1 x {count}, nothing changed", tool, ours, MOST_OF_ONE)


def run_of_vip_service(count: int, destinations: int) -> bool:
    """First run against the tool's writing, nothing changed and one service changed against its reading; whether all are fast enough."""
    wanted = services(count, destinations)
    checked = {
        protocol: {**wanted.pop(), "protocol": protocol, "health_check": {"interval": interval}}
        for interval, protocol in enumerate(("tcp", "udp"), 5)
    }
    wanted += checked.values()
    with Namespace(f"l4bench{os.getpid()}c") as one, Namespace(f"l4bench{os.getpid()}d") as other:
        first = timed(lambda: converge(one, wanted))
        held = one.run("ipvsadm", "-Sn", timeout=600).stdout
        tool = timed(lambda: other.run("ipvsadm", "--restore", input=held, timeout=600))
        saved = timed(lambda: one.run("ipvsadm", "-Sn", timeout=600))
        nothing = timed(lambda: converge(one, wanted))
        flips = {protocol: one.call(flip, wanted, service) for protocol, service in checked.items()}
        converge(one, wanted)  # a backend that is back stands behind the others, which is another fingerprint
        wanted[count // 2] = service(count // 2, destinations - 1)
        changed = timed(lambda: converge(one, wanted))
    good = report(f"vip_service {count} x {destinations}, first", tool, first)
    good &= report("vip_service, nothing changed", saved, nothing)
    for protocol, cost in flips.items():
        good &= report(f"a flip of a health check, {protocol}", saved, cost, MOST_OF_FLIP)
    return report("vip_service, one service changed", saved, changed, MOST_CHANGED) and good


def flip(wanted: list[dict[str, Any]], checked: dict[str, Any]) -> Cost:
    """What the checker, which lives on, does about a backend that fails or is back: the mean of some, behind the first."""
    with given(wanted, "ipvs", NODE) as directory:
        own = Services(directory)
        own.load()
        one = min(probe for probe in own.probes if own.users([probe]) == [checked["name"]])
        follow(own, one, FLIPS)
        cost = timed(lambda: follow(own, one, FLIPS))
    forget_failed()
    return Cost(*(seconds / FLIPS for seconds in cost))


def follow(own: Services, one: Probe, flips: int) -> None:
    """Out, and back in."""
    for number in range(flips):
        assert own.converge(own.users([one]), {} if number % 2 else {one: "timed out"})


def converge(host: Namespace, wanted: list[dict[str, Any]]) -> None:
    """In a process of its own, and a child of this one, whose processor time counts."""
    arguments = {"node": NODE, "exclusive": True, "dataplane": "ipvs", "payload": pack(wanted)._asdict()}
    run_module_ok(host, "vip_service", arguments, timeout=600)


def apply(wanted: list[IpvsChange]) -> None:
    with Ipvs() as ipvs:
        ipvs.apply(wanted)


def read() -> None:
    with Ipvs() as ipvs:
        ipvs.services()


if __name__ == "__main__":
    sys.exit(main())
