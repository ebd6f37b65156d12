# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Results as a page of tables and as plots with logarithmic axes (SVG)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from applying import Applying

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")

Series = Mapping[str, Sequence[tuple[float, float]]]


def page(
    machine: str, applying: Sequence[Applying], connections: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> str:
    """Markdown. connections: by their heading and layout, each column's value."""
    parts = [
        "# Benchmarks",
        "",
        "Made by `make bench`: "
        + machine
        + ". Absolute times are those of this machine and of what else it did; the ratios are to a",
        "floor that was measured in the same run.",
        "",
        "## Applying",
        "",
        "Services with three backends each, IPv4. The floor is `iptables-restore` of the same rules into an empty namespace. Seconds of",
        "the module's whole run on the node, started by a Python that compiles it anew, as Ansible does; its list as one text.",
        "",
        *_table(
            [
                "back end",
                "services",
                "floor",
                "first",
                "first / floor",
                "one changed",
                "nothing changed",
                "memory, MiB",
            ],
            [
                [
                    one.back_end,
                    "%d" % one.services,
                    "%.2f" % one.floor,
                    "%.2f" % one.first,
                    "%.1f" % (one.first / one.floor),
                    "%.2f" % one.one_changed,
                    "%.2f" % one.nothing,
                    "%.0f" % one.memory,
                ]
                for one in applying
            ],
        ),
        "",
        "![Seconds against services](applying.svg)",
    ]
    for heading, rows in connections.items():
        columns = list(next(iter(rows.values())))
        body = [[name, *("%.2f" % row[column] for column in columns)] for name, row in rows.items()]
        parts += ["", "## " + heading, "", *_table(["layout", *columns], body)]
    return "\n".join([*parts, ""])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| %s |" % " | ".join(line) for line in lines]


def applying_plot(applying: Sequence[Applying]) -> str:
    """Seconds against services."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in applying:
        for what, seconds in (
            ("iptables-restore", one.floor),
            ("first", one.first),
            ("one changed", one.one_changed),
            ("nothing changed", one.nothing),
        ):
            series.setdefault("%s: %s" % (one.back_end, what), []).append((one.services, seconds))
    return plot(series, "services", "seconds")


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
        parts += [_line(x, _MARGIN, x, _HEIGHT - _MARGIN), _text(x, _HEIGHT - _MARGIN + 18, "%g" % 10.0**decade)]
    for decade in range(bottom, top + 1):
        _x, y = place(10.0**left, 10.0**decade)
        parts += [_line(_MARGIN, y, _WIDTH - _MARGIN, y), _text(_MARGIN - 28, y + 4, "%g" % 10.0**decade)]
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join("%.1f,%.1f" % place(x, y) for x, y in line)
        parts.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (path, colour))
        parts.append(_text(_WIDTH - 130, _MARGIN - 40 + 14 * number, name, colour))
    size = 'width="%d" height="%d"' % (_WIDTH, _HEIGHT)
    style = 'font-family="sans-serif" font-size="12"'
    return '<svg xmlns="http://www.w3.org/2000/svg" %s %s>\n%s\n</svg>\n' % (size, style, "\n".join(parts))


def _decades(values: Sequence[Any]) -> tuple[int, int]:
    """The powers of ten between which all values are."""
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ccc"/>' % (x1, y1, x2, y2)


def _text(x: float, y: float, text: str, colour: str = "#000") -> str:
    return '<text x="%.1f" y="%.1f" text-anchor="middle" fill="%s">%s</text>' % (x, y, colour, text)
