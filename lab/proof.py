# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask every service of the lab from everywhere, and lay the answers beside what the inventory promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .expectation import Expectation, Question, expect, judge, questions
from .traffic import Tally, connect

if TYPE_CHECKING:
    from rich.console import Console

    from .build import Lab
    from .topology import Topology

REFUSALS = 3


def prove(lab: Lab, console: Console, connections: int) -> int:
    """Print the table of questions and answers; the number of questions whose answers are not as expected."""
    table = _table(connections)
    wrong = 0
    previous = ""
    for question in questions(lab.topology):
        expectation = expect(lab.topology, question)
        tally = ask(lab, question, connections if expectation.weights else REFUSALS)
        faults = judge(expectation, tally)
        wrong += bool(faults)
        if question.service != previous:
            table.add_section()
        table.add_row(
            question.service if question.service != previous else "",
            f"{question.entry} {_endpoint(question)}",
            _asker(lab.topology, question),
            _answers(tally, expectation),
            _expected(tally, expectation),
            _sources(question, tally),
            "[red]" + "\n".join(faults) if faults else "[green]ok",
        )
        previous = question.service
    console.print(table)
    return wrong


def ask(lab: Lab, question: Question, count: int) -> Tally:
    namespace = lab.namespace(question.asker)
    return connect(namespace, question.address, question.port, question.protocol, count=count)


def _table(connections: int) -> Table:
    caption = (
        f"{connections} connections a line, shares in percent, chi-square test of each; refusals asked {REFUSALS} times"
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, header_style="bold")
    for title, style in {
        "Service": "bold",
        "Asked at": "",
        "By": "",
        "Answers": "",
        "Expected": "dim",
        "Backends see": "",
        "": "",
    }.items():
        table.add_column(title, style=style)
    return table


def _endpoint(question: Question) -> str:
    address = rf"\[{question.address}]" if question.version == 6 else question.address
    return f"{address}:{question.port}" + ("" if question.protocol == "tcp" else f" {question.protocol}")


def _asker(topology: Topology, question: Question) -> str:
    if question.asker in topology.nodes:
        return f"{question.asker} itself"
    if question.asker in topology.backends:
        return f"{question.asker} on {question.node}"
    return f"{question.asker} via {question.node}"


def _backends(tally: Tally, expectation: Expectation) -> list[str]:
    return sorted({*tally.backends, *expectation.weights})


def _answers(tally: Tally, expectation: Expectation) -> str:
    """Each backend's part of the answers; failures by kind."""
    whole = max(tally.answered, 1)
    shares = [f"{name} {100 * tally.backends[name] / whole:.0f}" for name in _backends(tally, expectation)]
    return " ".join([*(f"[yellow]{kind}[/]" for kind in tally.failures), *shares])


def _expected(tally: Tally, expectation: Expectation) -> str:
    """The shares that the weights give, in the order of the answers."""
    if not expectation.weights:
        return "refused"
    whole = sum(expectation.weights.values())
    parts = [f"{100 * expectation.weights.get(name, 0) / whole:.0f}" for name in _backends(tally, expectation)]
    return f"{parts[0]} each" if len(set(parts)) == 1 else " ".join(parts)


def _sources(question: Question, tally: Tally) -> str:
    """The addresses that backends saw; what a backend that reached itself saw is told apart."""
    hairpin = sorted({source for backend, source in tally.answers if backend == question.asker})
    others = sorted({source for backend, source in tally.answers if backend != question.asker})
    return ", ".join([" ".join(others), *(f"hairpin {source}" for source in hairpin)])
