# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All benchmarks, and their page in the documentation. Needs root; takes half an hour, with --quick some minutes; wants a quiet machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), *(str(CHECKOUT / part) for part in (".cache/collections", "tests/integration"))]

import command
import connections
import layouts
import playing
import report
from applying import WAYS, measure
from command import told
from connections import Target
from report import Results, Table

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.offline import render_services
from module_runner import run_module_ok

VARIANTS = ("nft", "legacy")


class Size(NamedTuple):
    """How much is measured. fleet: nodes, services on each, forks."""

    counts: Sequence[int]
    pools: Sequence[int]
    rounds: int
    fleet: tuple[int, int, int]


WHOLE = Size((100, 1000, 10000), (3, 30, 300), connections.ROUNDS, (50, 200, 10))
QUICK = Size((100, 1000), (3, 30), 5, (3, 50, 3))
_LONGEST = 600.0


def main(arguments: Sequence[str]) -> None:
    options = command.parse(__doc__, arguments)
    size = QUICK if options.quick else WHOLE
    results = _measure(size)
    for name, text in report.files(_machine(), results).items():
        (options.output / name).write_text(text)


def _measure(size: Size) -> Results:
    started = time.perf_counter()
    return Results(
        applying=[told(measure(way, count)) for way in WAYS for count in size.counts],
        playing=[told(playing.measure_playing(count)) for count in size.counts],
        loop=told(playing.measure_loop()),
        through={count: _through(count, size) for count in size.counts},
        pools=_pools(size),
        fleet=told(playing.measure_fleet(*size.fleet)),
        minutes=(time.perf_counter() - started) / 60,
    )


def _through(count: int, size: Size) -> Table:
    """The first, middle and last of so many services, and traffic for none, in our layouts and in a list."""
    wanted = layouts.services(count)
    places = {"first": 0, "middle": count // 2, "last": count - 1}
    targets = {name: Target((layouts.vip(number), layouts.PORT), 3) for name, number in places.items()}
    targets[report.NO_SERVICE] = Target(connections.NO_SERVICE, 1)
    return _in_all_layouts(wanted, targets, "last", 3, size.rounds)


def _pools(size: Size) -> Table:
    """A service with so many backends each."""
    wanted = [layouts.service(number, number) for number in size.pools]
    targets = {f"{number}": Target((layouts.vip(number), layouts.PORT), number) for number in size.pools}
    found = _in_all_layouts(wanted, targets, f"{size.pools[-1]}", size.pools[-1], size.rounds)
    return {**found, report.AFFINITY: _with_affinity(wanted, size)}


def _with_affinity(wanted: list[dict[str, Any]], size: Size) -> dict[str, float]:
    """Each client has one backend, so that direct connections are to one port too."""
    targets = {f"{number}": Target((layouts.vip(number), layouts.PORT), 1) for number in size.pools}
    with connections.Bench(size.pools[-1]) as bench:
        remembering = [{**one, "session_affinity": "client_ip"} for one in wanted]
        run_module_ok(bench.node, "vip_service", {"services": remembering, "node": layouts.NODE})
        found = bench.measure(targets, size.rounds)
        rated = f"{size.pools[-1]}"
        return told({**found, "connections/s, " + rated: bench.rate(targets[rated], size.rounds)})


def _in_all_layouts(
    wanted: list[dict[str, Any]], targets: dict[str, Target], rated: str, ports: int, rounds: int
) -> Table:
    found = {}
    for way in WAYS:
        rules = render_services(wanted, {"node": {**layouts.NODE, **way.settings}, "ip_version": "ipv4"})
        found[f"iptables-{way.name}"] = _measured(way.variant, rules, targets, rated, ports, rounds)
    for variant in VARIANTS:
        rules = layouts.linear(wanted)
        found[f"iptables-{variant}, {report.LIST}"] = _measured(variant, rules, targets, rated, ports, rounds)
    return found


def _measured(
    variant: str, rules: str, targets: dict[str, Target], rated: str, ports: int, rounds: int
) -> dict[str, float]:
    with connections.Bench(ports) as bench:
        bench.node.run(f"xtables-{variant}-multi", "iptables-restore", input=rules, timeout=_LONGEST)
        found = bench.measure(targets, rounds)
        found["connections/s, " + rated] = bench.rate(targets[rated], rounds)
    print(variant, found, flush=True)
    return found


def _machine() -> str:
    version = subprocess.run(["iptables", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    cores = os.cpu_count() or 1
    return f"Linux {platform.release()}, {cores} cores, iptables {version}, Python {platform.python_version()}"


if __name__ == "__main__":
    main(sys.argv[1:])
