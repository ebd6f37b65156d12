# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table in docs/semantics.md that says which test proves which line, made from the tests' own marks.

Run it to write the table anew; tests/unit/test_collection_semantics.py fails when it is not up to date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENT = CHECKOUT / "docs" / "semantics.md"
BEGIN, END = "<!-- proofs: made by tests/toolchain/semantics_table.py -->", "<!-- end of proofs -->"


class Proof(NamedTuple):
    """A test that carries ``@pytest.mark.semantics(line)``."""

    line: int
    test: str
    file: str
    both_back_ends: bool


def proofs() -> list[Proof]:
    """All of them, by line and name."""
    files = sorted((CHECKOUT / "tests" / "integration").glob("test_*.py"))
    return sorted({proof for path in files for proof in _proofs_of(path)})


def _proofs_of(path: Path) -> Iterator[Proof]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            takes_network = any(argument.arg in ("network", "host") for argument in node.args.args)
            for line in _marks(node):
                yield Proof(line, node.name, path.name, takes_network)


def _marks(function: ast.FunctionDef) -> Iterator[int]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.semantics":
            yield from (ast.literal_eval(argument) for argument in decorator.args)


def table() -> str:
    """The table in Markdown."""
    rows = ["| line | proved by | iptables-nft | iptables-legacy |", "| --- | --- | --- | --- |"]
    for proof in proofs():
        words = proof.test.removeprefix("test_").replace("_", " ")
        rows.append(f"| {proof.line} | {words} (`{proof.file}`) | yes | {'yes' if proof.both_back_ends else ''} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The document with the table as it is now. ValueError without the marks that the table stands between."""
    before, rest = text.split(BEGIN)
    dummy, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
