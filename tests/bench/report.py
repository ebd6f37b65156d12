# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Results as a page of tables and as plots with logarithmic axes (SVG)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from applying import Applying
from playing import Fleet, Loop, Playing

LIST, NO_SERVICE = "kube-proxy's list", "traffic for no service"
AFFINITY = "iptables-nft, session affinity"
_LEAN = "lean"
"""Of the names of ways that are in tables alone."""
_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#7f7f7f")
_FLEETS = (1000, 10000)
_HOUR = 3600

Series = Mapping[str, Sequence[tuple[float, float]]]
Table = Mapping[str, Mapping[str, float]]


class Results(NamedTuple):
    """All that is measured. through: by the number of services; pools: by the number of backends, in the columns."""

    applying: Sequence[Applying]
    playing: Sequence[Playing]
    loop: Loop
    through: Mapping[int, Table]
    pools: Table
    fleet: Fleet
    minutes: float


def files(machine: str, results: Results) -> dict[str, str]:
    """The page and its plots, by their names."""
    return {
        "README.md": page(machine, results),
        "applying.svg": _applying_plot(results.applying),
        "connections.svg": _connections_plot(results.through),
        "playbooks.svg": _playing_plot(results.playing),
    }


def page(machine: str, results: Results) -> str:
    """Markdown."""
    intro = [
        "# Benchmarks",
        "",
        (
            f"Made by `make bench` in {results.minutes:.0f} minutes: {machine}. Absolute times are those of this machine and of what else it did; "
            "the ratios are"
        ),
        "to a floor that was measured in the same run. IPVS has [a page of its own](ipvs.md).",
    ]
    parts = [*intro, *_applying(results.applying), *_playing(results.playing, results.loop)]
    parts += [
        "",
        "## Connections",
        "",
        "What a new TCP connection takes, as a ratio to one through a router without rules.",
    ]
    parts += ["", "![Ratio to a direct connection against services](connections.svg)"]
    for count, table in results.through.items():
        parts += ["", f"### Through {count} services", "", *_ratios(table)]
    parts += ["", "### To a service with so many backends", "", *_ratios(results.pools), *_fleet(results.fleet)]
    return "\n".join([*parts, ""])


def _applying(measured: Sequence[Applying]) -> list[str]:
    header = [
        "variant",
        "services",
        "floor",
        "kube-proxy's rules",
        "empty module",
        "first",
        "first / floor",
        "first / kube-proxy's rules",
        "one changed",
        "one chain, tool alone",
        "nothing changed",
        "others changed",
        "memory, MiB",
        "kept for boot",
        "one changed is kept",
        "restored at boot",
    ]
    return [
        "",
        "## Applying",
        "",
        "Services with three backends each, every one a host of its own, IPv4. The floor is `iptables-restore` of the same rules into an empty",
        "namespace; beside it stands the same of the rules that kube-proxy has for these services, whatever ours are. Lean are nodes with",
        "`backend_chains: false`. Seconds of the module's whole run on the node, with the start of a Python that compiles it anew, as Ansible",
        "has it do; an empty module (`ping`) takes what stands beside the floor. The services come as one text, and only where they were not",
        "given before. Memory is the most that the first run, or a tool that it ran, has had. What the role `node` keeps for boot is what a",
        "run has given to the kernel, not read from it (iptables-legacy: read the first time). Of one change, and of nothing, the median of",
        "five runs. Beside one change stands what `iptables-restore --noflush` alone takes for a single chain: iptables-legacy reads the whole",
        "table and writes it back, and no tool for it can do less. Others changed: nothing of ours, but somebody else a rule of his, as",
        "Docker does, since the last run; on iptables-nft not for the first time, which has all rules read.",
        "",
        *_table(
            header,
            [
                [
                    one.name,
                    f"{one.services}",
                    *_decimals(one.floor, one.kube_proxy, one.empty, one.first),
                    *_decimals(one.first / one.floor, one.first / one.kube_proxy),
                    *_decimals(one.one_changed, one.one_chain, one.nothing, one.disturbed),
                    f"{one.memory:.0f}",
                    *_decimals(one.saved, one.saved_one_changed, one.restored),
                ]
                for one in measured
            ],
        ),
        "",
        "![Seconds against services](applying.svg)",
    ]


def _playing(measured: Sequence[Playing], loop: Loop) -> list[str]:
    header = [
        "services",
        "floor",
        "first",
        "one changed",
        "nothing changed",
        "site.yml, first",
        "site.yml, one changed",
        "site.yml, nothing changed",
    ]
    per_rule = loop.seconds / loop.rules
    return [
        "",
        "## Playbooks",
        "",
        "One node, iptables-nft. The floor loads the same variables and pings. The other columns are the seconds beyond that floor of a play",
        "with one task `vip_service`, and of `site.yml` with all roles on a node of its own, what is kept for boot included.",
        "",
        *_table(
            header,
            [
                [
                    f"{one.services}",
                    *_decimals(one.floor, *(seconds - one.floor for seconds in one[2:])),
                ]
                for one in measured
            ],
        ),
        "",
        "![Seconds of whole runs against services](playbooks.svg)",
        "",
        (
            f"A loop of `ansible.builtin.iptables` took {loop.seconds:.1f} seconds for {loop.rules} rules, {per_rule:.2f} each. "
            f"kube-proxy's list has {loop.rules_per_service} rules for a service with"
        ),
        (
            f"three backends; extrapolated, not measured: {per_rule * loop.rules_per_service * 1000 / 60:.0f} minutes for 1,000 services, "
            f"{per_rule * loop.rules_per_service * 10000 / _HOUR:.1f} hours for 10,000, whether they change or not."
        ),
    ]


def _ratios(table: Table) -> list[str]:
    columns = list(next(iter(table.values())))
    return _table(["layout", *columns], [[name, *_decimals(*row.values())] for name, row in table.items()])


def _fleet(fleet: Fleet) -> list[str]:
    rows = [
        [name, *_decimals(run.seconds, run.seconds / fleet.floor.seconds, run.processors / fleet.nodes)]
        for name, run in (("ping", fleet.floor), ("first", fleet.first), ("nothing changed", fleet.nothing))
    ]
    per_node = fleet.nothing.seconds / fleet.nodes
    return [
        "",
        "## Fleet",
        "",
        (
            f"`site.yml` on {fleet.nodes} nodes with {fleet.services} services each and {fleet.forks} forks. "
            "Nodes are namespaces of the controller's machine, so that their modules"
        ),
        "take its processors too. [How to run it on thousands](../fleet.md).",
        "",
        *_table(["run", "seconds", "ratio to ping", "seconds of processors per node"], rows),
        "",
        "Projected from that at the same number of processors, nothing changed: "
        + ", ".join(f"{nodes} nodes {nodes * per_node / _HOUR:.1f} hours" for nodes in _FLEETS)
        + ". The tasks that took longest:",
        "",
        *_table(
            ["task, nothing changed", "seconds, all nodes"],
            [[name, f"{taken:.1f}"] for name, taken in fleet.nothing.tasks],
        ),
    ]


def _decimals(*values: float) -> list[str]:
    return [f"{value:.2f}" for value in values]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _applying_plot(measured: Sequence[Applying]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for one in (one for one in measured if _LEAN not in one.name):
        for what, seconds in (
            ("iptables-restore", one.floor),
            ("an empty module", one.empty),
            ("first", one.first),
            ("one changed", one.one_changed),
            ("nothing changed", one.nothing),
        ):
            series.setdefault(f"{one.name}: {what}", []).append((one.services, seconds))
    return plot(series, "services", "seconds")


def _connections_plot(through: Mapping[int, Table]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for count, table in through.items():
        for layout, row in ((layout, row) for layout, row in table.items() if _LEAN not in layout):
            series.setdefault(layout + ": last", []).append((count, row["last"]))
            series.setdefault(layout + ": none", []).append((count, row[NO_SERVICE]))
    return plot(series, "services", "ratio to a direct connection")


def _playing_plot(measured: Sequence[Playing]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for one in measured:
        for what, seconds in (
            ("ping", one.floor),
            ("vip_service, first", one.first),
            ("one changed", one.one_changed),
            ("nothing changed", one.nothing),
            ("site.yml, one changed", one.site_one_changed),
            ("site.yml, nothing changed", one.site_nothing),
        ):
            series.setdefault(what, []).append((one.services, seconds))
    return plot(series, "services", "seconds of the whole run")


def plot(series: Series, across: str, up: str) -> str:
    """An SVG with a line for each series, both axes logarithmic."""
    points = [point for line in series.values() for point in line]
    left, right = _decades([x for x, _y in points])
    bottom, top = _decades([y for _x, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _MARGIN + (math.log10(x) - left) / (right - left) * (_WIDTH - 2 * _MARGIN),
            _HEIGHT - _MARGIN - (math.log10(y) - bottom) / (top - bottom) * (_HEIGHT - 2 * _MARGIN),
        )

    parts = [_text(_WIDTH / 2, _HEIGHT - 15, across), _text(_MARGIN, _MARGIN - 40, up)]
    for decade in range(left, right + 1):
        x, _y = place(10.0**decade, 10.0**bottom)
        parts += [_line(x, _MARGIN, x, _HEIGHT - _MARGIN), _text(x, _HEIGHT - _MARGIN + 18, f"{10.0**decade:g}")]
    for decade in range(bottom, top + 1):
        _x, y = place(10.0**left, 10.0**decade)
        parts += [_line(_MARGIN, y, _WIDTH - _MARGIN, y), _text(_MARGIN - 28, y + 4, f"{10.0**decade:g}")]
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(_WIDTH - 130, _MARGIN - 40 + 14 * number, name, colour))
    size = f'width="{_WIDTH}" height="{_HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    return '<svg xmlns="http://www.w3.org/2000/svg" {} {}>\n{}\n</svg>\n'.format(size, style, "\n".join(parts))


def _decades(values: Sequence[Any]) -> tuple[int, int]:
    """The powers of ten between which all values are."""
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ccc"/>'


def _text(x: float, y: float, text: str, colour: str = "#000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{colour}">{text}</text>'
