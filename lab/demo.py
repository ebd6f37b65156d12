# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demonstration: an inventory's services converge on a lab of their own and carry traffic, as they promise.

It stops with an error as soon as something is not as the inventory says, and always takes its lab down.
"""

from __future__ import annotations

import difflib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .build import Lab
from .playbook import Run, play
from .proof import prove
from .topology import copy_inventory, edit

if TYPE_CHECKING:
    from rich.console import Console

SPARE_GROUP = "    spare:\n      hosts:\n"


class Disappointment(Exception):
    """What was seen is not what was to be expected."""


class Demonstration:
    """One run, on a copy of the lab's inventory in `directory`."""

    def __init__(self, console: Console, directory: Path, prefix: str, connections: int) -> None:
        self._console = console
        self._inventory = copy_inventory(directory / "inventory", prefix)
        self._connections = connections

    def run(self) -> None:
        """Disappointment says what went wrong; the lab is gone either way."""
        lab = Lab(self._inventory)
        if lab.standing():
            raise Disappointment("another demonstration is running, or was killed: `make lab-down` removes its lab")
        began = time.monotonic()
        try:
            self._build(lab)
            self._converge()
            self._prove()
            self._scale_up()
            self._prove()
        finally:
            lab.down()
        self._console.print(f"[bold green]All as expected[/], in {time.monotonic() - began:.0f} s. The lab is removed.")

    def _build(self, lab: Lab) -> None:
        self._title("The lab: two nodes with backends behind a bridge each, and a client outside")
        lab.up()
        for node in lab.topology.nodes.values():
            behind = [backend.name for backend in lab.topology.backends.values() if backend.node == node.name]
            self._console.print(f"{node.name}  {' '.join(node.addresses)}  with {', '.join(behind)}")
        self._console.print(f"{lab.topology.client.name}  {' '.join(lab.topology.client.addresses)}")

    def _converge(self) -> None:
        self._title("The inventory's services, on both nodes")
        self._play()
        self._title("Once more: nothing changes")
        changed = self._play().changed
        if any(changed.values()) or not changed:
            raise Disappointment(f"the second run changed something: {changed}")

    def _prove(self) -> None:
        self._title("Who gets an answer, from whom, and how often")
        wrong = prove(Lab(self._inventory), self._console, self._connections)
        if wrong:
            raise Disappointment(f"{wrong} of the answers above are not as expected")

    def _scale_up(self) -> None:
        """The spare host joins the group whose hosts are the service's backends."""
        self._title("Scaling up: web4 moves into group web of the inventory")
        hosts = self._inventory / "hosts.yml"
        before = hosts.read_text()
        edit(hosts, SPARE_GROUP, "")
        for line in difflib.unified_diff(
            before.splitlines(), hosts.read_text().splitlines(), "before", "after", "", "", 1
        ):
            colour = {"+": "green", "-": "red"}.get(line[0], "dim")
            self._console.print(line.rstrip(), style=colour, markup=False, highlight=False)
        self._title("What would change")
        predicted = self._play("--check", "--diff").diff
        self._title("Done for real")
        done = self._play("--diff", shown=False)
        if not predicted or predicted != done.diff:
            self._console.print(done.output, markup=False)
            raise Disappointment("what --check predicted is not what was then done")
        self._console.print(f"The same {done.diff.total()} lines of difference; tasks that changed: {done.changed}")

    def _play(self, *arguments: str, shown: bool = True) -> Run:
        self._console.print("$ ansible-playbook -i inventory playbooks/site.yml", *arguments, style="cyan")
        run = play(self._inventory, *arguments, colour=self._console.is_terminal, shown=shown)
        if run.code != 0:
            if not shown:
                self._console.print(run.output, markup=False)
            raise Disappointment(f"ansible-playbook ended with code {run.code}")
        return run

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")
