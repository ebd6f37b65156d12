# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all benchmarks have as commands: their options, where their pages go, and what they print while they measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

_CHECKOUT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Options(NamedTuple):
    """What was asked for. output: an existing directory."""

    quick: bool
    output: Path


def parse(description: str | None, arguments: Sequence[str]) -> Options:
    """Return the options. Without an output, pages of whole measurements go into the documentation."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="little of each, to see that all of it works")
    parser.add_argument("--output", type=Path, help="where the page goes, by default into the documentation")
    found = parser.parse_args(arguments)
    usual = _CHECKOUT / (".cache" if found.quick else "docs") / "benchmarks"
    output: Path = found.output or usual
    output.mkdir(parents=True, exist_ok=True)
    return Options(found.quick, output)


def told(one: T) -> T:
    """Print a result, and return it."""
    print(one, flush=True)
    return one
