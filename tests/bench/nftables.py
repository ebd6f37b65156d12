# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs of vip_service with the nftables dataplane against the raw netlink load of the same elements, and connections through them.

    python tests/bench/nftables.py [--quick] [--output docs/benchmarks]

Needs root, takes some ten minutes, wants a quiet machine. `make bench` calls it. Writes nftables.md.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
os.environ.pop("L4_WARM", None)
sys.path[:0] = [str(CHECKOUT), *(str(CHECKOUT / part) for part in (".cache/collections", "tests/integration"))]

import command
import connections
import layouts
import playing
from applying import TIMES, given_as, in_a_child, namespace, restore_at_boot, run_as_ansible, timed
from boot_host import keep, state_of
from command import told
from connections import Target

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.dataplane import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.own_tables import OwnTables
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_parts import TABLES, is_of_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import NftPlan, plan_tables
from lab.namespaces import Namespace

DATAPLANE = "nftables"
KUBE_PROXY = {10_000: "17.6-25.8"}
"""Seconds of its nftables mode's first sync with as many services, measured on a machine of this kind on 2026-11-28; not in this run."""


class Loading(NamedTuple):
    """Seconds of whole runs of the module; memory in MiB. floor: packing and sending the same messages from Python, nothing else."""

    services: int
    floor: float
    empty: float
    first: float
    nothing: float
    one_changed: float
    one_added: float
    others_changed: float
    restored: float
    memory: float


def main(arguments: Sequence[str]) -> None:
    options = command.parse(__doc__, arguments)
    counts, rounds = ((100, 1000), 5) if options.quick else ((1000, 10_000, 100_000), connections.ROUNDS)
    loading = [told(measure(count)) for count in counts]
    through = {count: told(measure_connections(count, rounds)) for count in counts[1:]}
    played = told(playing.measure_task(counts[1], DATAPLANE))
    (options.output / "nftables.md").write_text(page(loading, through, counts[1], played))


def measure(count: int) -> Loading:
    """Of so many services with three backends each."""
    wanted = layouts.services_apart(count)
    plan = _plan(wanted)
    with namespace("floor") as host:
        floor = in_a_child(lambda: host.call(partial(OwnTables(is_of_services).apply, plan)))[0]
    with namespace() as host:
        converge = partial(_converge, host)
        run_as_ansible(host, None, "ansible.modules.ping")
        empty = timed(lambda: run_as_ansible(host, None, "ansible.modules.ping"))
        same = given_as(wanted)
        first, memory = in_a_child(lambda: converge(same))
        nothing = median(timed(lambda: converge(same)) for dummy in range(TIMES))
        wanted[count // 2] = layouts.service_apart(count // 2, backends=2)
        changed = given_as(wanted)
        one_changed = median(timed(partial(converge, to)) for to in [changed, same] * (TIMES // 2) + [changed])
        more = given_as([*wanted, layouts.service_apart(count)])
        one_added = median(timed(partial(converge, to)) for to in [more, changed] * (TIMES // 2) + [more])
        others_changed = _disturbed(host, partial(converge, more))
        restored = _restored(wanted)
    return Loading(count, floor, empty, first, nothing, one_changed, one_added, others_changed, restored, memory)


def _plan(wanted: list[dict[str, Any]]) -> NftPlan:
    node = parse_node(layouts.NODE)
    tables = Nftables().render(Nftables().compile(parse_services(wanted, node), node), node).nftables
    return plan_tables({TABLES[family]: table for family, table in tables.items()}, {})


def _converge(host: Namespace, asked: dict[str, Any]) -> None:
    run_as_ansible(host, None, "vip_service", node=layouts.NODE, exclusive=True, dataplane=DATAPLANE, **asked)


def _disturbed(host: Namespace, converge: partial[None]) -> float:
    """Nothing of ours is changed, but somebody else's table, not for the first time."""
    found = []
    for number in range(1 + TIMES):
        host.run("nft", "add", "table", "ip", f"others-{number}")
        found.append(timed(converge))
    return median(found[1:])


def _restored(wanted: list[dict[str, Any]]) -> float:
    with tempfile.TemporaryDirectory() as kept, namespace("new") as new:
        keep(Path(kept), 1, state_of(wanted, layouts.NODE, DATAPLANE))
        return timed(lambda: restore_at_boot(new, "nft", Path(kept)))


def measure_connections(count: int, rounds: int) -> dict[str, float]:
    """New connections through the first, middle and last of so many services, and for none, as a ratio to direct ones."""
    places = {"first": 0, "middle": count // 2, "last": count - 1}
    targets = {name: Target((layouts.vip(number), layouts.PORT), 3) for name, number in places.items()}
    targets["no service"] = Target(connections.NO_SERVICE, 1)
    with connections.Bench(3) as bench:
        _converge(bench.node, given_as(layouts.services(count)))
        found = bench.measure(targets, rounds)
        return {**found, "connections/s, last": bench.rate(targets["last"], rounds)}


def page(loading: Sequence[Loading], through: dict[int, dict[str, float]], count: int, played: playing.Task) -> str:
    machine = f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# nftables",
        "",
        f"Made by `tests/bench/nftables.py`, a part of `make bench`: {machine}. Services with three backends each.",
        "",
        "Seconds of whole runs of `vip_service`, as Ansible starts it, in a namespace. The floor packs the same messages and sends them",
        "over netlink, and nothing else; ratios are to that floor, in the same run. kube-proxy's figure is that of its own code in",
        "nftables mode on a machine of the same kind, taken before. Others changed: nothing of ours, but a table of somebody else, since",
        "the last run, not for the first time.",
        "",
    ]
    lines += _table(
        [
            "services",
            "floor",
            "kube-proxy",
            "empty module",
            "first",
            "first / floor",
            "nothing changed",
            "one changed",
            "one added",
            "others changed",
            "restored at boot",
            "memory, MiB",
        ],
        [
            [
                f"{one.services}",
                f"{one.floor:.2f}",
                KUBE_PROXY.get(one.services, "-"),
                f"{one.empty:.2f}",
                f"{one.first:.2f}",
                f"{one.first / one.floor:.1f}",
                f"{one.nothing:.2f}",
                f"{one.one_changed:.2f}",
                f"{one.one_added:.2f}",
                f"{one.others_changed:.2f}",
                f"{one.restored:.2f}",
                f"{one.memory:.0f}",
            ]
            for one in loading
        ],
    )
    lines += ["", "What a new TCP connection takes, as a ratio to one through a router without rules.", ""]
    columns = list(next(iter(through.values())))
    lines += _table(
        ["services", *columns],
        [[f"{size}", *(f"{row[name]:.2f}" for name in columns)] for size, row in through.items()],
    )
    lines += [
        "",
        f"One task `vip_service` with {count} services through `ansible-playbook`, in seconds beyond a play that loads the same variables",
        f"and pings ({played.floor:.2f}): first {played.first - played.floor:.2f}, nothing changed {played.nothing - played.floor:.2f}.",
        "",
    ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


if __name__ == "__main__":
    main(sys.argv[1:])
