# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the table in docs/proofs.md that says which test proves which line of docs/semantics.md, from the tests' own marks.

tests/unit/test_collection_semantics.py fails when the table is not up to date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
SEMANTICS = CHECKOUT / "docs" / "semantics.md"
PROOFS = CHECKOUT / "docs" / "proofs.md"
BEGIN, END = "<!-- proofs: made by tests/toolchain/semantics_table.py -->", "<!-- end of proofs -->"


class Proof(NamedTuple):
    """A test that carries ``@pytest.mark.semantics(line)``."""

    line: int
    test: str
    file: str
    iptables: bool
    both_variants: bool
    lean: bool
    ipvs: bool
    nftables: bool


def proofs() -> list[Proof]:
    """All of them, by line and name."""
    files = sorted(
        path for kind in ("integration", "virtual") for path in (CHECKOUT / "tests" / kind).glob("test_*.py")
    )
    return sorted({proof for path in files for proof in _proofs_of(path)})


def _proofs_of(path: Path) -> Iterator[Proof]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield from (_proof(line, node, path) for line in _marks(node))


def _proof(line: int, function: ast.FunctionDef, path: Path) -> Proof:
    """The traffic tests run on both variants of iptables, without chains of backends, and in a virtual machine once more with ipvs."""
    if path.parent.name == "virtual":
        return Proof(
            line, function.name, path.name, iptables=False, both_variants=False, lean=False, ipvs=True, nftables=False
        )
    fixtures = {argument.arg for argument in function.args.args}
    marks = [ast.unparse(one) for one in function.decorator_list]
    if any(one.startswith("pytest.mark.parametrize('network', ['nftables']") for one in marks):
        return Proof(line, function.name, path.name, False, False, False, False, nftables=True)
    if path.name.startswith("test_nftables_"):
        return Proof(line, function.name, path.name, True, True, False, False, nftables=True)
    only_iptables = "pytest.mark.iptables_only" in marks
    every_network = "network" in fixtures and path.name != "test_semantics_layouts.py"
    with_nftables = every_network and "pytest.mark.needs_iptables" not in marks
    with_ipvs = "network" in fixtures and path.name.startswith("test_semantics_") and not only_iptables
    both = bool(fixtures & {"network", "host"})
    lean = "network" in fixtures
    return Proof(line, function.name, path.name, True, both, lean, with_ipvs, with_nftables)


def _marks(function: ast.FunctionDef) -> Iterator[int]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.semantics":
            yield from (ast.literal_eval(argument) for argument in decorator.args)


def table() -> str:
    """The table in Markdown."""
    columns = ["line", "proved by", "iptables-nft", "iptables-legacy", "`backend_chains: false`", "ipvs", "nftables"]
    rows = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for dummy in columns)} |"]
    for proof in proofs():
        words = proof.test.removeprefix("test_").replace("_", " ")
        proven = (proof.iptables, proof.both_variants, proof.lean, proof.ipvs, proof.nftables)
        marks = ["yes" if one else "" for one in proven]
        rows.append(f"| {proof.line} | {words} (`{proof.file}`) | {' | '.join(marks)} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The document with the table as it is now. ValueError without the marks that the table stands between."""
    before, rest = text.split(BEGIN)
    dummy, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PROOFS.write_text(with_table(PROOFS.read_text()))
