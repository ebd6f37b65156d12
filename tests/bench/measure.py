# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All benchmarks, and their page in the documentation. Needs root; takes minutes; wants a quiet machine."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), *(str(CHECKOUT / part) for part in (".cache/collections", "tests/integration"))]

import connections
import layouts
import report
from applying import Applying, measure
from connections import Target

from ansible_collections.layer4.service_proxy.plugins.module_utils.offline import render_services

DOCUMENTATION = CHECKOUT / "docs" / "benchmarks"
BACK_ENDS = ("nft", "legacy")
COUNTS = (100, 1000, 10000)
POOLS = (3, 30, 300)
_LONGEST = 600.0


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="leave out what is about more services")
    options = parser.parse_args(arguments)
    counts = [count for count in COUNTS if count <= options.most]
    applying = [_told(measure(back_end, count)) for back_end in BACK_ENDS for count in counts]
    results = {
        "A new connection through %d services, as a ratio to a direct one" % counts[-1]: _through(counts[-1]),
        "A new connection to a service with 3, 30 and 300 backends, as a ratio to a direct one": _pools(),
    }
    DOCUMENTATION.mkdir(exist_ok=True)
    (DOCUMENTATION / "README.md").write_text(report.page(_machine(), applying, results))
    (DOCUMENTATION / "applying.svg").write_text(report.applying_plot(applying))


def _told(one: Applying) -> Applying:
    print(one, flush=True)
    return one


def _through(count: int) -> dict[str, dict[str, float]]:
    """The first, middle and last of so many services, and traffic for none, in our layout and in a list."""
    wanted = layouts.services(count)
    ours = render_services(wanted, {"node": layouts.NODE, "ip_version": "ipv4"})
    places = {"first": 0, "middle": count // 2, "last": count - 1}
    targets = {name: Target((layouts.vip(number), layouts.PORT), 3) for name, number in places.items()}
    targets["traffic for no service"] = Target(connections.NO_SERVICE, 1)
    found = {}
    for back_end in BACK_ENDS:
        for layout, rules in (("tree", ours), ("kube-proxy's list", layouts.linear(wanted))):
            name = "iptables-%s, %s" % (back_end, layout)
            found[name] = _measured(back_end, rules, targets, "last")
    return found


def _pools() -> dict[str, dict[str, float]]:
    wanted = [layouts.service(number, number) for number in POOLS]
    ours = render_services(wanted, {"node": layouts.NODE, "ip_version": "ipv4"})
    targets = {"%d" % number: Target((layouts.vip(number), layouts.PORT), number) for number in POOLS}
    found = {}
    for back_end in BACK_ENDS:
        for layout, rules in (("tree", ours), ("kube-proxy's list", layouts.linear(wanted))):
            found["iptables-%s, %s" % (back_end, layout)] = _measured(back_end, rules, targets, "%d" % POOLS[-1])
    return found


def _measured(back_end: str, rules: str, targets: dict[str, Target], rated: str) -> dict[str, float]:
    with connections.Bench(POOLS[-1]) as bench:
        bench.node.run("xtables-%s-multi" % back_end, "iptables-restore", input=rules, timeout=_LONGEST)
        found = bench.measure(targets)
        found["connections/s, " + rated] = bench.rate(targets[rated])
    print(back_end, found, flush=True)
    return found


def _machine() -> str:
    version = subprocess.run(["iptables", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    words = (platform.release(), os.cpu_count() or 1, version, platform.python_version())
    return "Linux %s, %d cores, iptables %s, Python %s" % words


if __name__ == "__main__":
    main(sys.argv[1:])
